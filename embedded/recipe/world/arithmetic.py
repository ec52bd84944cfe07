"""Arithmetic on small numbers, and counting, which can go on for hundreds of tokens."""

from collections.abc import Callable
from random import Random
from typing import Final

from embedded.recipe.world.dialogue import Dialogue

_MOST: Final = 50


def _number(random: Random) -> int:
    return random.randint(0, _MOST)


def _add(random: Random) -> Dialogue:
    a, b = _number(random), _number(random)
    question = random.choice((f"What is {a} plus {b}?", f"Add {a} and {b}.", f"{a} + {b} = ?"))
    return Dialogue(question, f"{a} plus {b} is {a + b}.", str(a + b))


def _subtract(random: Random) -> Dialogue:
    b, a = sorted((_number(random), _number(random)))
    question = random.choice((f"What is {a} minus {b}?", f"{a} - {b} = ?"))
    return Dialogue(question, f"{a} minus {b} is {a - b}.", str(a - b))


def _compare(random: Random) -> Dialogue:
    a, b = random.sample(range(_MOST + 1), 2)
    larger, smaller = max(a, b), min(a, b)
    return Dialogue(f"Which is larger, {a} or {b}?", f"{larger} is larger than {smaller}.", str(larger))


def _neighbour(random: Random) -> Dialogue:
    a = _number(random) + 1
    side, neighbour = random.choice((("after", a + 1), ("before", a - 1)))
    return Dialogue(f"Which number comes {side} {a}?", f"The number {side} {a} is {neighbour}.", str(neighbour))


def _double(random: Random) -> Dialogue:
    a = _number(random)
    return Dialogue(f"What is twice {a}?", f"Twice {a} is {2 * a}.", str(2 * a))


def _parity(random: Random) -> Dialogue:
    a = _number(random)
    parity = "odd" if a % 2 else "even"
    return Dialogue(f"Is {a} even or odd?", f"{a} is {parity}.", parity)


def _count(random: Random) -> Dialogue:
    """Mostly short; the few long ones teach the model to keep going at positions no other text reaches."""
    first = random.choice((1, 1, random.randint(2, 60)))
    last = first + random.choice((random.randint(2, 9), random.randint(2, 9), random.randint(10, 180)))
    numbers = (str(number) for number in range(first, last + 1))
    return Dialogue(f"Count from {first} to {last}.", ", ".join(numbers))


_JOBS: Final[tuple[Callable[[Random], Dialogue], ...]] = (
    _add, _add, _add, _subtract, _subtract, _compare, _neighbour, _neighbour, _double, _parity, _count,
)  # fmt: skip


def ask(random: Random) -> Dialogue:
    """Draw one exercise."""
    return random.choice(_JOBS)(random)
