"""Support tickets: a customer reports a problem."""

from random import Random
from typing import Final

from embedded.recipe.world import words
from embedded.recipe.world.dialogue import Dialogue

_PROBLEMS: Final[dict[str, tuple[str, ...]]] = {
    "the invoice": ("was charged twice", "shows the wrong amount", "has a wrong tax number"),
    "my credit card": ("was charged twice", "was declined", "shows a payment I do not know"),
    "the monthly fee": ("went up without notice", "was taken too early"),
    "the discount": ("was not applied to my bill", "is missing on the receipt"),
    "my parcel": ("has not arrived", "is three days late", "went to the wrong address"),
    "the delivery": ("is late again", "was left in the rain", "went to my neighbour"),
    "the tracking number": ("does not move", "is not found by the courier"),
    "the package": ("arrived open", "is stuck at customs"),
    "my password": ("does not work", "was reset by itself", "is not accepted"),
    "the login page": ("keeps asking for a code", "says user unknown"),
    "my profile": ("shows an old email", "can not be deleted", "was locked"),
    "the verification email": ("never arrives", "has a dead link"),
    "the app": ("crashes when I open it", "freezes on start", "shows a blank screen"),
    "the search button": ("does nothing", "gives an error"),
    "the export function": ("writes an empty file", "stops half way", "gives an error"),
    "the latest update": ("broke the menu", "made everything slow"),
}
_OPENERS: Final = ("", "Hello, ", "Hi, ", "Since {day} ", "Please help, ", "It seems that ", "I think ", "Once again ")
_CLOSERS: Final = (
    "", " Please fix this.", " What can I do?", " This is the second time.", " I am {name}.", " Can you help me?",
)  # fmt: skip


def ask(random: Random) -> Dialogue:
    """Draw a ticket with a sympathetic reply, or a ticket with the question what it is about."""
    subject = random.choice(list(_PROBLEMS))
    problem = random.choice(_PROBLEMS[subject])
    frame = f"{random.choice(_OPENERS)}{subject} {problem}.{random.choice(_CLOSERS)}"
    text = words.sentence_case(frame.format(day=random.choice(words.DAYS), name=words.name(random, 0.1)))
    yours = subject.replace("my ", "your ", 1)
    if random.random() < 0.25:
        return Dialogue(f"{text} What is this about?", f"This is about {yours}.")
    return Dialogue(text, f"I am sorry to hear about {yours}. We will look into it.")
