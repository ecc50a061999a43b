"""The restricted interpreter computes like Python and refuses everything that is not straight-line arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.demo.arithmetic import NotArithmeticError, call_function, evaluate_expression


@given(
    st.recursive(
        st.integers(0, 99).map(str), lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner)
    )
)
def test_expressions_have_the_value_python_gives_them(text: str) -> None:
    assert evaluate_expression(text, {}) == eval(text)


def test_functions_return_what_their_last_variable_holds() -> None:
    source = "def f(x):\n    a = (x + 5) * 2\n    a = a // 3 % 4\n    return a * x"
    assert call_function(source, "f", [7]) == (7 + 5) * 2 // 3 % 4 * 7


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def f(x)\n    return x",
        "def g(x):\n    return x",
        "def f():\n    return 1",
        "def f(x):\n    a = x",
        "def f(x):\n    return",
        "def f(x):\n    return a",
        "def f(x):\n    return x ** x",
        "def f(x):\n    return x // 0",
        "def f(x):\n    return True",
        "def f(x):\n    return 1.5",
        "def f(x):\n    return -x",
        "def f(x):\n    return f(x)",
        "def f(x):\n    a = b = x\n    return a",
        "def f(x):\n    while x: x = x\n    return x",
        "def f(x):\n    return __import__('os').getpid()",
        "import os\ndef f(x):\n    return x",
        "def f(x):\n    return x\x00",
        "(" * 500,
        "def f(x):\n    return x" + " + x" * 5000,
        "def f(x):\n" + "    x = x * x\n" * 40 + "    return x",
        "def f(x):\n    return 1if x else 2",
    ],
)
def test_anything_else_is_refused(source: str) -> None:
    with pytest.raises(NotArithmeticError):
        call_function(source, "f", [3])
