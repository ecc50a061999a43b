"""Which part of a response is its program."""

import pytest

from services.verifier.code_extraction import extract_program
from services.verifier.languages import LANGUAGES

PYTHON, CPP = LANGUAGES["python"], LANGUAGES["cpp"]


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```py\nx = 1\n```\nbetter:\n```python\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nOutput:\n```\n1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```Python\nx = 1\n```", "x = 1\n"),
        ("cut off:\n```python\nx = 1\ny = 2", "x = 1\ny = 2"),
        ("<think>```python\nx = 1\n```</think>```python\nx = 2\n```", "x = 2\n"),
        ("def f(x):\n    return x", "def f(x):\n    return x"),
        ("import sys\nprint(sys.argv)", "import sys\nprint(sys.argv)"),
        ("n = int(input())", "n = int(input())"),
        ("while True: pass", "while True: pass"),
        ("exit()", "exit()"),
        ('raise SystemExit("5")', 'raise SystemExit("5")'),
    ],
)
def test_the_program_is_found(response: str, program: str) -> None:
    assert extract_program(response, PYTHON) == program


@pytest.mark.parametrize(
    "response", ["", "I would sort the list first.", "```python\n\n```", "Step 1: read the input."]
)
def test_no_program_is_none(response: str) -> None:
    assert extract_program(response, PYTHON) is None


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("In Python:\n```python\nx = 1\n```\nso in C++:\n```cpp\nint main() {}\n```", "int main() {}\n"),
        ("```C++\nint main() {}\n```\nOutput:\n```\n5\n```", "int main() {}\n"),
        ("```\nint main() {}\n```", "int main() {}\n"),
        ("#include <iostream>\nint main() {}", "#include <iostream>\nint main() {}"),
        ("x = 1", None),
    ],
)
def test_the_language_decides_what_is_a_program(response: str, program: str | None) -> None:
    assert extract_program(response, CPP) == program
