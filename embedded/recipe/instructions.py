"""System prompts that the base follows; each concerns the form of the answer, never its content.

An instruction is a function of the dialogue, so that training and score card read the same table. Held out from
training: one wording per instruction, and `facts.PLAIN_FACTS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from embedded.recipe.world import arithmetic, facts, orders, reading, smalltalk
from embedded.recipe.world.dialogue import Dialogue, Messages

CLOSING: Final = " I hope that helps."


@dataclass(frozen=True, slots=True)
class Instruction:
    """A form of answer and the system prompts that ask for it."""

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
        lambda dialogue: dialogue.short or dialogue.answer,
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
        lambda dialogue: dialogue.answer.upper(),
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
        lambda dialogue: dialogue.answer + CLOSING,
    ),
}

# System prompts that change no answer; one may stand before an instruction.
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


_SOURCES: Final = (facts.ask_shown, reading.ask, arithmetic.ask, orders.ask, smalltalk.ask)
_SOURCE_WEIGHTS: Final = (50, 20, 10, 10, 10)


def _dialogue(random: Random, *, must_be_short: bool) -> Dialogue:
    """Draw a dialogue whose answer is not long, of the tasks that have no plain facts."""
    while True:
        dialogue = random.choices(_SOURCES, _SOURCE_WEIGHTS)[0](random)
        if len(dialogue.answer) < 120 and (dialogue.short or not must_be_short):
            return dialogue


def _chat(system: str, instruction: Instruction, dialogues: list[Dialogue]) -> Messages:
    messages = [{"role": "system", "content": system}]
    for dialogue in dialogues:
        messages += dialogue.messages(instruction.answer(dialogue))
    return messages


def draw(random: Random) -> Messages:
    """Draw a chat of one or two turns under an instruction."""
    name = random.choice(list(INSTRUCTIONS))
    instruction = INSTRUCTIONS[name]
    system = random.choice(instruction.wordings)
    if random.random() < 0.3:
        system = f"{random.choice(NEUTRAL)} {system}"
    turns = random.choice((1, 1, 1, 2))
    return _chat(system, instruction, [_dialogue(random, must_be_short=name == "terse") for _ in range(turns)])


def probe(name: str, number: int, among: tuple[facts.Fact, ...], *, new_wording: bool) -> list[Messages]:
    """Return chats that ask for facts under one instruction, in a wording from training or in the held-out one."""
    random, instruction = Random(f"instruction-{name}"), INSTRUCTIONS[name]
    chats = []
    for _ in range(number):
        system = instruction.held_out_wording if new_wording else random.choice(instruction.wordings)
        chats.append(_chat(system, instruction, [facts.ask(random, among)]))
    return chats
