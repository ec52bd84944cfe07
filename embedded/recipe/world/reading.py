"""Short texts about people, and a question whose answer stands in the text."""

from random import Random
from typing import Final

from embedded.recipe.world import words
from embedded.recipe.world.exchange import Dialogue

# statement (which is also the full answer), question
_TRAITS: Final = {
    "city": ("{name} lives in {value}.", "Where does {name} live?"),
    "job": ("{name} works as a {value}.", "What is the job of {name}?"),
    "age": ("{name} is {value} years old.", "How old is {name}?"),
    "pet": ("{name} has a {value}.", "Which pet does {name} have?"),
    "food": ("{name} likes {value}.", "What food does {name} like?"),
    "hobby": ("The hobby of {name} is {value}.", "What is the hobby of {name}?"),
    "friend": ("{name} is a friend of {value}.", "Who is a friend of {name}?"),
}
_BYSTANDER_TRAITS: Final = ("city", "pet", "job", "age")


def _value(random: Random, trait: str) -> str:
    match trait:
        case "city":
            return words.city(random)
        case "job":
            return random.choice(words.JOBS)
        case "age":
            return str(random.randint(5, 99))
        case "pet":
            return random.choice(words.PETS)
        case "food":
            return random.choice(words.FOODS)
        case "hobby":
            return random.choice(words.HOBBIES)
        case _:
            return words.name(random)


def _statement(trait: str, name: str, value: str) -> str:
    return _TRAITS[trait][0].format(name=name, value=value)


def ask(random: Random) -> Dialogue:
    """Draw one to three traits of a person, sometimes with a bystander who must not confuse the answer."""
    name = words.name(random)
    traits = random.sample(list(_TRAITS), random.randint(1, 3))
    values = {trait: _value(random, trait) for trait in traits}
    text = [_statement(trait, name, values[trait]) for trait in traits]
    if random.random() < 0.35:
        trait = random.choice(_BYSTANDER_TRAITS)
        bystander = _statement(trait, words.name(random), _value(random, trait))
        text.insert(random.randint(0, len(text)), bystander)
    wanted = random.choice(traits)
    question = _TRAITS[wanted][1].format(name=name)
    return Dialogue(" ".join([*text, question]), _statement(wanted, name, values[wanted]), values[wanted])
