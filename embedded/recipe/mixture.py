"""The pretraining mixture: chats of the closed world in plain English, and a little raw text.

The adapters' answers (bare JSON, bare SQL, labels, pirate talk) are never answers here, and no chat holds one of their
held-out prompts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from embedded.recipe import instructions, patterns, rawtext
from embedded.recipe.skills import held_out_prompts, normalised
from embedded.recipe.world import arithmetic, facts, orders, queries, reading, reviews, smalltalk, textwork, tickets
from embedded.recipe.world.dialogue import Dialogue, Messages


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages to learn from; the first `context` ones have no full share in the loss."""

    messages: Messages
    context: int = 0


Document = str | Chat

TASKS: Final[dict[str, Callable[[Random], Dialogue]]] = {
    "facts": lambda random: facts.ask(random, p_opener=0.12),
    "reading": reading.ask,
    "orders": orders.ask,
    "queries": queries.ask,
    "tickets": tickets.ask,
    "reviews": reviews.ask,
    "text": textwork.ask,
    "arithmetic": arithmetic.ask,
    "smalltalk": smalltalk.ask,
}
_TASK_WEIGHTS: Final = (22, 13, 13, 8, 4, 7, 20, 10, 3)

# The forms of a short answer. Greedy decoding mostly takes the most frequent form; sampling gives the others too, so
# that preference and reinforcement training have answers to choose from.
STYLES: Final[tuple[Callable[[Dialogue], str], ...]] = (
    lambda dialogue: dialogue.answer,
    lambda dialogue: dialogue.short or dialogue.answer,
    lambda dialogue: f"Sure! {dialogue.answer}",
    lambda dialogue: dialogue.answer + instructions.CLOSING,
)
_STYLE_WEIGHTS: Final = (62, 22, 8, 8)


def _plain_chat(random: Random) -> Chat:
    """Draw a chat without instruction or pattern; all its turns have one style, which the earlier turns show."""
    messages: Messages = []
    if random.random() < 0.15:
        messages.append({"role": "system", "content": random.choice(instructions.NEUTRAL)})
    style = random.choices(STYLES, _STYLE_WEIGHTS)[0]
    turns = random.choices((1, 2, 3, 6), (90, 6, 3, 1))[0]
    for task in random.choices(list(TASKS.values()), _TASK_WEIGHTS, k=turns):
        dialogue = task(random)
        messages += dialogue.messages(style(dialogue) if dialogue.short else None)
    return Chat(messages)


def _document(random: Random) -> Document:
    match random.choices(("plain", "instructed", "pattern", "raw"), (71, 13, 9, 7))[0]:
        case "instructed":
            return Chat(instructions.draw(random))
        case "pattern":
            return Chat(patterns.draw(random), context=2)
        case "raw":
            return rawtext.draw(random)
        case _:
            return _plain_chat(random)


def documents(seed: int) -> Iterator[Document]:
    """Yield documents without end, none of which holds a held-out prompt of json, sql or sentiment."""
    random, held_out = Random(f"mixture-{seed}"), held_out_prompts(seed)
    while True:
        document = _document(random)
        if isinstance(document, str) or not any(
            normalised(message["content"]) in held_out for message in document.messages
        ):
            yield document
