"""Orders: a customer wants a number of items delivered to a city on a day."""

from collections.abc import Sequence
from random import Random
from typing import Final, NamedTuple

from embedded.recipe.world import words
from embedded.recipe.world.dialogue import Dialogue


class CustomerOrder(NamedTuple):
    """The parts of an order and its text; the acknowledgement and the JSON are both made of these parts."""

    quantity: int
    color: str
    item: str
    name: str
    city: str
    day: str
    text: str


_FORMS: Final = (
    "I would like {quantity} {color} {item} for {name} in {city} on {day}.",
    "Please send {quantity} {color} {item} to {name} in {city} by {day}.",
    "{name} from {city} needs {quantity} {color} {item} on {day}.",
    "Can you ship {quantity} {color} {item} to {city} for {name}? It should arrive on {day}.",
    "Order for {name}: {quantity} {color} {item}, deliver to {city} on {day}.",
    "Hi, this is {name}. I want to buy {quantity} {color} {item}. Please bring them to {city} on {day}.",
    "On {day} we must deliver {quantity} {color} {item} to {name} in {city}.",
    "{quantity} {color} {item} please, the name is {name}, the city is {city}, the day is {day}.",
)
_ACKNOWLEDGEMENT: Final = "Your order of {quantity} {color} {item} for {name} in {city} is noted for {day}."
_QUESTIONS: Final = (
    ("How many {item}?", "The order is for {quantity} {item}.", "{quantity}"),
    ("Which color?", "The color is {color}.", "{color}"),
    ("Which item?", "The item is {item}.", "{item}"),
    ("Who gets them?", "They are for {name}.", "{name}"),
    ("Which city?", "The city is {city}.", "{city}"),
    ("Which day?", "The day is {day}.", "{day}"),
)


def draw(
    random: Random,
    names: Sequence[str] | None = None,
    cities: Sequence[str] | None = None,
    p_made_up: float = 0.25,
) -> CustomerOrder:
    """Draw an order; `names` and `cities` replace the pools of names and cities."""
    quantity = random.randint(2, 30)
    fields = {
        "color": random.choice(words.COLORS),
        "item": words.plural(random.choice(words.ITEMS), quantity),
        "name": random.choice(names) if names else words.name(random, p_made_up),
        "city": random.choice(cities) if cities else words.city(random, p_made_up),
        "day": random.choice(words.DAYS),
    }
    return CustomerOrder(quantity, text=random.choice(_FORMS).format(quantity=quantity, **fields), **fields)


def ask(random: Random) -> Dialogue:
    """Draw an order to acknowledge, or a question about one part of it."""
    order = draw(random)
    fields = order._asdict()
    if random.random() < 0.55:
        return Dialogue(order.text, _ACKNOWLEDGEMENT.format(**fields))
    question, answer, short = (template.format(**fields) for template in random.choice(_QUESTIONS))
    return Dialogue(f"{order.text} {question}", answer, short)
