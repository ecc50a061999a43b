"""A restricted interpreter for straight-line integer arithmetic.

A sampled program may contain anything, so it is never executed: its syntax tree is walked, and whatever is not
an assignment, a return or integer arithmetic is refused.  There are no loops, calls or powers, and the length of
the text and the size of every number are bounded, so that each program ends quickly.
"""

import ast
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

OPERATORS: Final[Mapping[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

LONGEST_TEXT: Final = 1000
LARGEST_NUMBER: Final = 10**100


class NotArithmeticError(ValueError):
    """The text is not straight-line integer arithmetic, or it has no value within bounds."""


def evaluate_expression(text: str, names: Mapping[str, int]) -> int:
    """Return the value of an expression over integers and `names`, such as ``(value + 5) * 2``."""
    match _parse(text).body:
        case [ast.Expr(value=expression)]:
            return _value(expression, names)
        case _:
            raise NotArithmeticError("not a single expression")


def call_function(source: str, function_name: str, arguments: Sequence[int]) -> int:
    """Return what the function defined by `source` returns for `arguments`, without executing it."""
    match _parse(source).body:
        case [ast.FunctionDef(name=name, args=parameters, body=body)] if name == function_name:
            names = [parameter.arg for parameter in parameters.args]
        case _:
            raise NotArithmeticError(f"expected exactly one function, named {function_name}")
    if len(names) != len(arguments):
        raise NotArithmeticError(f"{function_name} takes {len(names)} arguments, not {len(arguments)}")
    values = dict(zip(names, arguments, strict=True))
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=target)], value=expression):
                values[target] = _value(expression, values)
            case ast.Return(value=ast.expr() as expression):
                return _value(expression, values)
            case _:
                raise NotArithmeticError(f"line {statement.lineno} is neither an assignment nor a return")
    raise NotArithmeticError(f"{function_name} returns nothing")


@lru_cache(maxsize=1024)
def _parse(source: str) -> ast.Module:
    if len(source) > LONGEST_TEXT:
        raise NotArithmeticError(f"longer than {LONGEST_TEXT} characters")
    try:
        with warnings.catch_warnings():
            # Python comments on doubtful literals such as "1if"; sampled text is full of them.
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotArithmeticError(f"not Python: {error}") from error


def _value(node: ast.expr, values: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return number
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.BinOp(left=left, op=symbol, right=right) if type(symbol) in OPERATORS:
            try:
                result = OPERATORS[type(symbol)](_value(left, values), _value(right, values))
            except ZeroDivisionError as error:
                raise NotArithmeticError("division by zero") from error
            if abs(result) > LARGEST_NUMBER:
                raise NotArithmeticError("a number out of bounds")
            return result
        case _:
            raise NotArithmeticError(f"not integer arithmetic: {type(node).__name__}")
