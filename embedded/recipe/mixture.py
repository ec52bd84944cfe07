"""The pretraining mixture: chats of the closed world in plain English, and a little raw text.

What the adapters teach (bare JSON, bare SQL, labels, pirate talk) is never an answer here, and their held-out
prompts are not asked here either.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from embedded.recipe import instructions, patterns, rawtext
from embedded.recipe.skills import held_out_prompts, normalised
from embedded.recipe.world import (
    arithmetic,
    facts,
    orders,
    queries,
    reading,
    reviews,
    smalltalk,
    textwork,
    tickets,
)
from embedded.recipe.world.exchange import Dialogue, Messages


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages to learn from; the first `given` ones are shown only."""

    messages: Messages
    given: int = 0


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

# How a short answer is told. Greedy decoding mostly takes the most frequent way; sampling meets the others too,
# which gives preference and reinforcement training something to choose from.
STYLES: Final[tuple[Callable[[Dialogue], str], ...]] = (
    lambda exchange: exchange.answer,
    lambda exchange: exchange.short or exchange.answer,
    lambda exchange: f"Sure! {exchange.answer}",
    lambda exchange: exchange.answer + instructions.CLOSING,
)
_STYLE_WEIGHTS: Final = (62, 22, 8, 8)


def _plain_chat(random: Random) -> Chat:
    """Draw an ordinary chat.

    Its style is drawn once, so that looking back at earlier turns teaches something about the next one.
    """
    messages: Messages = []
    if random.random() < 0.15:
        messages.append({"role": "system", "content": random.choice(instructions.NEUTRAL)})
    style = random.choices(STYLES, _STYLE_WEIGHTS)[0]
    turns = random.choices((1, 2, 3, 6), (90, 6, 3, 1))[0]
    for task in random.choices(list(TASKS.values()), _TASK_WEIGHTS, k=turns):
        exchange = task(random)
        messages += exchange.turn(style(exchange) if exchange.short else None)
    return Chat(messages)


def _document(random: Random) -> Document:
    match random.choices(("plain", "instructed", "pattern", "raw"), (71, 13, 9, 7))[0]:
        case "instructed":
            return Chat(instructions.draw(random))
        case "pattern":
            return Chat(patterns.draw(random), given=2)
        case "raw":
            return rawtext.draw(random)
        case _:
            return _plain_chat(random)


def documents(seed: int) -> Iterator[Document]:
    """Yield documents without end, none of which asks a held-out prompt of an adapter."""
    random, held_out = Random(f"mixture-{seed}"), held_out_prompts(seed)
    while True:
        document = _document(random)
        if isinstance(document, str) or not any(
            normalised(message["content"]) in held_out for message in document.messages
        ):
            yield document
