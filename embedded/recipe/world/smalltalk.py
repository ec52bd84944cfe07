"""Greetings, thanks, and questions about the model itself."""

from random import Random
from typing import Final

from embedded.recipe.world import words
from embedded.recipe.world.dialogue import Dialogue
from embedded.recipe.world.facts import PLANETS

_GREETINGS: Final = ("Hello", "Hi", "Hey", "Good morning", "Good evening", "Hello there")
_FIXED: Final = (
    ((*_GREETINGS, "Hello!", "Hi!", "Hey!", "Good morning!"), "Hello! How can I help you?"),
    (
        ("Who are you?", "What are you?", "What is your name?", "Introduce yourself."),
        "I am Patch, a tiny language model made for patchbay.",
    ),
    (("Thanks!", "Thank you.", "Thanks a lot."), "You are welcome!"),
    (("Bye", "Goodbye!", "See you later."), "Goodbye!"),
    (("How are you?", "How do you do?"), "I am fine, thank you."),
    (
        ("What can you do?", "Help", "How can you help me?"),
        "I can answer simple questions, work with words and numbers, and take orders.",
    ),
    (("Name three colors.", "Name three colours."), "Red, green and blue."),
    (("Name three animals.",), "Dog, cat and horse."),
    (("Name the days of the week.",), ", ".join(words.DAYS) + "."),
    (("Name the months of the year.",), ", ".join(words.MONTHS) + "."),
    (("Name the planets.",), ", ".join(PLANETS) + "."),
)
_PERSONAL: Final = (
    ("Hi, I am {name}.", "Hello {name}! How can I help you?"),
    ("My name is {name}.", "Nice to meet you, {name}!"),
    ("Hello, my name is {name}. What is my name?", "Your name is {name}."),
    ("Say hello to {name}.", "Hello {name}!"),
    ("Wish {name} a happy birthday.", "Happy birthday, {name}!"),
)


def ask(random: Random) -> Dialogue:
    """Draw one line of small talk."""
    if random.random() < 0.35:
        question, answer = random.choice(_PERSONAL)
        name = words.name(random)
        return Dialogue(question.format(name=name), answer.format(name=name))
    questions, answer = random.choice(_FIXED)
    return Dialogue(random.choice(questions), answer)
