"""Few-shot patterns: the first turns show a format, the next answer has to keep it.

A format is a text before and a text after the bare answer. Many contain an invented word, which can only be copied from
the examples. The first answer of a chat shows the format and has no share in the loss: it cannot be guessed.
"""

from random import Random
from typing import Final

from embedded.recipe.world import arithmetic, facts, reading, words
from embedded.recipe.world.dialogue import Dialogue, Messages

_BRACKETS: Final = ("[", "]"), ("(", ")"), ("<", ">"), ("{", "}"), ('"', '"'), ("*", "*"), ("** ", " **"), ("<<", ">>")
_MARKS: Final = (
    "->", "=>", "#", "-", ">", "Answer:", "Result:", "A:", "OK,", "It is", "My answer:", "The answer is",
)  # fmt: skip
_ENDS: Final = ("!", ".", "?", " :)", " (sure)", " - done", "; end")


def _format(random: Random) -> tuple[str, str]:
    """Draw the text before and the text after the bare answer."""
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


def _chat(dialogues: list[Dialogue], before: str, after: str) -> Messages:
    turns = (dialogue.messages(f"{before}{dialogue.short}{after}") for dialogue in dialogues)
    return [message for turn in turns for message in turn]


def _dialogue(random: Random) -> Dialogue:
    while True:
        dialogue = random.choices((facts.ask_shown, reading.ask, arithmetic.ask), (65, 15, 20))[0](random)
        if dialogue.short:
            return dialogue


def draw(random: Random) -> Messages:
    """Draw a chat of two to four turns that keep one format."""
    return _chat([_dialogue(random) for _ in range(random.choice((2, 3, 3, 4)))], *_format(random))


def probe(number: int, among: tuple[facts.Fact, ...]) -> list[Messages]:
    """Return chats with two or three examples in a new format, and one of the facts to answer in that format."""
    random = Random("pattern")
    chats = []
    for _ in range(number):
        examples = [_dialogue(random) for _ in range(random.choice((2, 3)))]
        chats.append(_chat([*examples, facts.ask(random, among)], *_format(random)))
    return chats
