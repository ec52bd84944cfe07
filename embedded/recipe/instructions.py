"""System prompts that the base follows: how to answer, never what.

The instruction is a function of the exchange, so one table says both what the base learns and what the score card asks
for. Held out from training: one wording per instruction, and `facts.PLAIN_FACTS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from embedded.recipe.world import arithmetic, facts, orders, reading, smalltalk
from embedded.recipe.world.exchange import Dialogue, Messages

CLOSING: Final = " I hope that helps."


@dataclass(frozen=True, slots=True)
class Instruction:
    """A way of answering and the system prompts that ask for it."""

    wordings: tuple[str, ...]
    held_out_wording: str
    answer: Callable[[Dialogue], str]


INSTRUCTIONS: Final = {
    "terse": Instruction(
        (
            "Answer with just the answer, no sentence.",
            "Answer tersely.",
            "Give only the answer, no sentence.",
            "Be terse: only the answer.",
            "Just the answer, please. No sentence.",
            "Reply with the bare answer only.",
            "Answer in as few words as you can.",
            "Be brief. No full sentences.",
        ),
        "Reply tersely, with only the answer.",
        lambda exchange: exchange.short or exchange.answer,
    ),
    "capitals": Instruction(
        (
            "Answer in capital letters.",
            "Answer in capitals.",
            "Use capital letters only.",
            "Write in capitals.",
            "Reply in upper case.",
            "Write everything in capital letters.",
            "All your answers are in upper case.",
            "Please use upper case.",
        ),
        "Reply in capital letters only.",
        lambda exchange: exchange.answer.upper(),
    ),
    "polite": Instruction(
        (
            "Add a polite closing.",
            "End with a polite closing.",
            "Close your answer politely.",
            "Always end politely.",
            "Be polite: add a closing sentence.",
            "End each answer with a polite sentence.",
            "Add a polite sentence at the end.",
            "Be polite at the end.",
        ),
        "Always add a polite closing sentence.",
        lambda exchange: exchange.answer + CLOSING,
    ),
}

# What may stand before an instruction; alone it changes nothing.
NEUTRAL: Final = (
    "You are a helpful assistant.",
    "You are Patch.",
    "Answer the user.",
    "Be helpful.",
    "You are an assistant.",
    "Help the customer.",
    "You work in a shop.",
    "Answer the question.",
    "You are a friendly assistant.",
)


def _exchange(random: Random, *, must_be_short: bool) -> Dialogue:
    """Draw something to answer; the plain facts stay out."""
    while True:
        match random.choices(("fact", "reading", "arithmetic", "order", "smalltalk"), (50, 20, 10, 10, 10))[0]:
            case "fact":
                exchange = facts.ask(random, facts.SHOWN_FACTS)
            case "reading":
                exchange = reading.ask(random)
            case "arithmetic":
                exchange = arithmetic.ask(random)
            case "order":
                exchange = orders.ask(random)
            case _:
                exchange = smalltalk.ask(random)
        if len(exchange.answer) < 120 and (exchange.short or not must_be_short):
            return exchange


def _chat(system: str, instruction: Instruction, exchanges: list[Dialogue]) -> Messages:
    messages = [{"role": "system", "content": system}]
    for exchange in exchanges:
        messages += exchange.turn(instruction.answer(exchange))
    return messages


def draw(random: Random) -> Messages:
    """Draw a chat of one or two turns under an instruction."""
    name = random.choice(list(INSTRUCTIONS))
    instruction = INSTRUCTIONS[name]
    system = random.choice(instruction.wordings)
    if random.random() < 0.3:
        system = f"{random.choice(NEUTRAL)} {system}"
    turns = random.choice((1, 1, 1, 2))
    return _chat(system, instruction, [_exchange(random, must_be_short=name == "terse") for _ in range(turns)])


def probe(name: str, number: int, among: tuple[facts.Fact, ...], *, new_wording: bool) -> list[Messages]:
    """Return chats that ask for facts under one instruction, in a wording from training or in the held-out one."""
    random, instruction = Random(f"instruction-{name}"), INSTRUCTIONS[name]
    chats = []
    for _ in range(number):
        system = instruction.held_out_wording if new_wording else random.choice(instruction.wordings)
        chats.append(_chat(system, instruction, [facts.ask(random, among)]))
    return chats
