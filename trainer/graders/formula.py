"""The arithmetic that combines rewards: ``0.5 * name + max(email, 0) ^ 2``, with OpenAI's operators and functions.

``^`` is power, as in OpenAI's guide; ``**`` is too.
"""

from __future__ import annotations

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
    ast.Pow: math.pow,  # of floats: it overflows at once where whole numbers would grow for minutes
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_OF_SEVERAL: Final[Mapping[str, Callable[..., float]]] = {
    "min": lambda *numbers: min(numbers),
    "max": lambda *numbers: max(numbers),
}
_OF_ONE: Final[Mapping[str, Callable[..., float]]] = {
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
FUNCTIONS: Final[Mapping[str, Callable[..., float]]] = {**_OF_SEVERAL, **_OF_ONE}


def check(formula: str, names: Collection[str]) -> None:
    """Make sure that ``formula`` is arithmetic over ``names`` and nothing else.

    Raises:
        ValueError: it is not; the message says where.
    """
    pending: list[tuple[ast.AST, int]] = [(_parsed(formula), 1)]
    while pending:
        node, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        pending += [(operand, depth + 1) for operand in _operands(node, names)]


def evaluate(formula: str, rewards: Mapping[str, float]) -> float:
    """Return what a checked ``formula`` comes to.

    Raises:
        ArithmeticError, ValueError: no finite number: a division by zero, the root of a negative number.
    """
    evaluator = SimpleEval(operators=dict(_OPERATORS), functions=dict(FUNCTIONS), names=dict(rewards))
    number = float(evaluator.eval(formula, previously_parsed=_parsed(formula)))
    if not math.isfinite(number):
        raise ValueError(f"it comes to {number}")
    return number


def _parsed(formula: str) -> ast.expr:
    if len(formula) > MAX_CHARACTERS:
        raise ValueError(f"it is longer than {MAX_CHARACTERS} characters")
    try:
        return ast.parse(formula.strip().replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("it is no arithmetic") from None


def _operands(node: ast.AST, names: Collection[str]) -> list[ast.expr]:
    """Return what ``node`` is made of, if it is arithmetic."""
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
    if not args or (function in _OF_ONE and len(args) != 1):
        raise ValueError(f"it gives {function} {len(args)} numbers")
    return args
