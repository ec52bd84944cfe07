"""Short texts about people, and a question whose answer stands in the text."""

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

from embedded.recipe.world import words
from embedded.recipe.world.dialogue import Dialogue


class Trait(NamedTuple):
    """How a trait is stated (which is also the full answer), asked for and drawn."""

    statement: str
    question: str
    draw: Callable[[Random], str]


_TRAITS: Final = {
    "city": Trait("{name} lives in {value}.", "Where does {name} live?", words.city),
    "job": Trait("{name} works as a {value}.", "What is the job of {name}?", lambda random: random.choice(words.JOBS)),
    "age": Trait("{name} is {value} years old.", "How old is {name}?", lambda random: str(random.randint(5, 99))),
    "pet": Trait("{name} has a {value}.", "Which pet does {name} have?", lambda random: random.choice(words.PETS)),
    "food": Trait("{name} likes {value}.", "What food does {name} like?", lambda random: random.choice(words.FOODS)),
    "hobby": Trait(
        "The hobby of {name} is {value}.", "What is the hobby of {name}?", lambda random: random.choice(words.HOBBIES)
    ),
    "friend": Trait("{name} is a friend of {value}.", "Who is a friend of {name}?", words.name),
}
_BYSTANDER_TRAITS: Final = tuple(_TRAITS[trait] for trait in ("city", "pet", "job", "age"))


def ask(random: Random) -> Dialogue:
    """Draw one to three traits of a person, sometimes with a bystander who must not confuse the answer."""
    name = words.name(random)
    traits = random.sample(list(_TRAITS.values()), random.randint(1, 3))
    values = {trait: trait.draw(random) for trait in traits}
    text = [trait.statement.format(name=name, value=value) for trait, value in values.items()]
    if random.random() < 0.35:
        trait = random.choice(_BYSTANDER_TRAITS)
        bystander = trait.statement.format(name=words.name(random), value=trait.draw(random))
        text.insert(random.randint(0, len(text)), bystander)
    asked = random.choice(traits)
    question = asked.question.format(name=name)
    answer = asked.statement.format(name=name, value=values[asked])
    return Dialogue(" ".join([*text, question]), answer, values[asked])
