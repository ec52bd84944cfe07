"""Few-shot patterns: the first turns show a format, the next answer has to keep it.

A format is what stands before and after the bare answer. Many contain a made-up word, so it can only be
copied from the examples. The first answer of a chat shows the format and is not learned: nobody could have
guessed it.
"""

from random import Random
from typing import Final

from embedded.recipe.world import arithmetic, facts, reading, words
from embedded.recipe.world.exchange import Dialogue, Messages

_BRACKETS: Final = (
    ("[", "]"),
    ("(", ")"),
    ("<", ">"),
    ("{", "}"),
    ('"', '"'),
    ("*", "*"),
    ("** ", " **"),
    ("<<", ">>"),
)
_MARKS: Final = (
    "->",
    "=>",
    "#",
    "-",
    ">",
    "Answer:",
    "Result:",
    "A:",
    "OK,",
    "It is",
    "My answer:",
    "The answer is",
)
_ENDS: Final = ("!", ".", "?", " :)", " (sure)", " - done", "; end")


def _format(random: Random) -> tuple[str, str]:
    match random.randrange(6):
        case 0:
            return random.choice(_BRACKETS)
        case 1:
            return f"{random.choice(_MARKS)} ", ""
        case 2:
            return f"{random.choice(_MARKS)} ", random.choice(_ENDS)
        case 3:
            return "", random.choice(_ENDS)
        case 4:
            return f"{words.word(random, 0.5).capitalize()}: ", ""
        case _:
            return f"{words.word(random, 0.5)} ", f" {words.word(random, 0.5)}"


def _chat(exchanges: list[Dialogue], before: str, after: str) -> Messages:
    turns = (exchange.turn(f"{before}{exchange.short}{after}") for exchange in exchanges)
    return [message for turn in turns for message in turn]


def _exchange(random: Random) -> Dialogue:
    while True:
        source = random.choices((None, reading.ask, arithmetic.ask), (65, 15, 20))[0]
        exchange = source(random) if source else facts.ask(random, facts.SHOWN_FACTS)
        if exchange.short:
            return exchange


def draw(random: Random) -> Messages:
    """Draw a chat of two to four turns that keep one format."""
    return _chat([_exchange(random) for _ in range(random.choice((2, 3, 3, 4)))], *_format(random))


def probe(number: int, among: tuple[facts.Fact, ...]) -> list[Messages]:
    """Return chats with two or three examples in a fresh format, and one of the facts to answer in it."""
    random = Random("pattern")
    chats = []
    for _ in range(number):
        examples = [_exchange(random) for _ in range(random.choice((2, 3)))]
        chats.append(_chat([*examples, facts.ask(random, among)], *_format(random)))
    return chats
