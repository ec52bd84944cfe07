"""The formula that combines rewards: ``0.5 * name + max(email, 0) ^ 2``, with OpenAI's operators and functions.

``^`` is power, as in OpenAI's guide, and so is ``**``.
"""

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Final

from simpleeval import SimpleEval

MAX_CHARACTERS: Final = 1000
MAX_DEPTH: Final = 32

_OPERATORS: Final[Mapping[type[ast.AST], Callable[..., float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,  # on floats: overflows at once, where integers would grow for minutes
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_VARIADIC: Final[Mapping[str, Callable[..., float]]] = {
    "min": lambda *numbers: min(numbers),
    "max": lambda *numbers: max(numbers),
}
_UNARY: Final[Mapping[str, Callable[..., float]]] = {
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
FUNCTIONS: Final[Mapping[str, Callable[..., float]]] = {**_VARIADIC, **_UNARY}


def check(formula: str, names: Collection[str]) -> None:
    """Check that ``formula`` is arithmetic over ``names`` and nothing else.

    Raises:
        ValueError: it is not; the message names the part.
    """
    pending: list[tuple[ast.AST, int]] = [(_parsed(formula), 1)]
    while pending:
        node, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        pending += [(operand, depth + 1) for operand in _operands(node, names)]


def evaluate(formula: str, rewards: Mapping[str, float]) -> float:
    """Return the value of a checked ``formula``.

    Raises:
        ArithmeticError, ValueError: it is not finite: a division by zero, the root of a negative number.
    """
    evaluator = SimpleEval(operators=dict(_OPERATORS), functions=dict(FUNCTIONS), names=dict(rewards))
    number = float(evaluator.eval(formula, previously_parsed=_parsed(formula)))
    if not math.isfinite(number):
        raise ValueError(f"its value is {number}")
    return number


def _parsed(formula: str) -> ast.expr:
    if len(formula) > MAX_CHARACTERS:
        raise ValueError(f"it is longer than {MAX_CHARACTERS} characters")
    try:
        return ast.parse(formula.strip().replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("it is no arithmetic expression") from None


def _operands(node: ast.AST, names: Collection[str]) -> list[ast.expr]:
    """Return the operands of ``node``.

    Raises:
        ValueError: it is not arithmetic.
    """
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return []
        case ast.Name(id=name) if name in names:
            return []
        case ast.Name(id=name):
            raise ValueError(f"it names {name!r:.80}, which is none of {', '.join(sorted(names))}"[:500])
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return [left, right]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return [operand]
        case ast.Call(func=ast.Name(id=function), args=args, keywords=[]):
            return _arguments(function, args)
    raise ValueError(f"it holds what is no arithmetic; there are + - * / ^ and {', '.join(FUNCTIONS)}")


def _arguments(function: str, args: list[ast.expr]) -> list[ast.expr]:
    if function not in FUNCTIONS:
        raise ValueError(f"it calls {function!r:.80}; there are {', '.join(FUNCTIONS)}")
    if not args or (function in _UNARY and len(args) != 1):
        raise ValueError(f"it gives {function} {len(args)} numbers")
    return args
