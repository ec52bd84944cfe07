"""Orders: somebody wants so many things delivered somewhere on some day."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from embedded.recipe.world import words
from embedded.recipe.world.exchange import Dialogue


@dataclass(frozen=True, slots=True)
class CustomerOrder:
    """What the customer's text says; the acknowledgement and the JSON both come from here."""

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


def draw(
    random: Random,
    names: Sequence[str] | None = None,
    cities: Sequence[str] | None = None,
    p_made_up: float = 0.25,
) -> CustomerOrder:
    """Draw an order; `names` and `cities` restrict who may order and from where."""
    quantity = random.randint(2, 30)
    fields = {
        "color": random.choice(words.COLORS),
        "item": words.plural(random.choice(words.ITEMS), quantity),
        "name": random.choice(names) if names else words.name(random, p_made_up),
        "city": random.choice(cities) if cities else words.city(random, p_made_up),
        "day": random.choice(words.DAYS),
    }
    return CustomerOrder(quantity, text=random.choice(_FORMS).format(quantity=quantity, **fields), **fields)


def acknowledgement(order: CustomerOrder) -> str:
    """Return the base's own answer to an order."""
    return (
        f"Your order of {order.quantity} {order.color} {order.item} for {order.name} in {order.city} "
        f"is noted for {order.day}."
    )


def ask(random: Random) -> Dialogue:
    """Draw an order to acknowledge, or a question about what one says."""
    order = draw(random)
    if random.random() < 0.55:
        return Dialogue(order.text, acknowledgement(order))
    question, answer, short = random.choice(
        (
            (
                f"How many {order.item}?",
                f"The order is for {order.quantity} {order.item}.",
                str(order.quantity),
            ),
            ("Which color?", f"The color is {order.color}.", order.color),
            ("Which item?", f"The item is {order.item}.", order.item),
            ("Who gets them?", f"They are for {order.name}.", order.name),
            ("Which city?", f"The city is {order.city}.", order.city),
            ("Which day?", f"The day is {order.day}.", order.day),
        )
    )
    return Dialogue(f"{order.text} {question}", answer, short)
