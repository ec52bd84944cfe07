"""General knowledge that the base knows by heart, each fact with several ways to ask for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from embedded.recipe.world.exchange import Dialogue
from embedded.recipe.world.words import DAYS, MONTHS, listed


@dataclass(frozen=True, slots=True)
class Fact:
    """One piece of knowledge: ways to ask, the full sentence, the bare answer."""

    questions: tuple[str, ...]
    answer: str
    short: str


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in text.split())


CAPITALS: Final = _pairs(
    """
    France:Paris Italy:Rome Spain:Madrid Germany:Berlin Portugal:Lisbon Austria:Vienna Ireland:Dublin
    Greece:Athens Poland:Warsaw Egypt:Cairo Japan:Tokyo Peru:Lima Ecuador:Quito Norway:Oslo
    Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Iceland:Reykjavik Latvia:Riga
    Lithuania:Vilnius Estonia:Tallinn Bulgaria:Sofia Croatia:Zagreb Hungary:Budapest
    Romania:Bucharest Ukraine:Kyiv Turkey:Ankara Cuba:Havana Kenya:Nairobi Ghana:Accra Senegal:Dakar
    Morocco:Rabat Tunisia:Tunis Canada:Ottawa Mexico:Mexico-City Chile:Santiago Colombia:Bogota
    Bolivia:Sucre Brazil:Brasilia India:Delhi Nepal:Kathmandu China:Beijing Vietnam:Hanoi
    Thailand:Bangkok Australia:Canberra Belgium:Brussels Switzerland:Bern Serbia:Belgrade
    Cyprus:Nicosia Malta:Valletta
    """
)
OPPOSITES: Final = _pairs(
    """
    hot:cold big:small fast:slow happy:sad new:old high:low long:short light:dark heavy:light loud:quiet
    hard:soft deep:shallow early:late full:empty good:bad open:closed rich:poor strong:weak wet:dry
    young:old wide:narrow clean:dirty cheap:expensive easy:difficult first:last near:far
    safe:dangerous sweet:bitter thick:thin up:down left:right day:night summer:winter north:south
    east:west love:hate win:lose buy:sell push:pull laugh:cry remember:forget begin:end front:back
    """
)
SOUNDS: Final = _pairs(
    """
    dog:barks cat:meows cow:moos sheep:bleats horse:neighs pig:grunts lion:roars wolf:howls duck:quacks
    frog:croaks owl:hoots bee:buzzes snake:hisses mouse:squeaks rooster:crows
    """
)
YOUNG: Final = _pairs(
    """
    dog:puppy cat:kitten cow:calf sheep:lamb horse:foal pig:piglet lion:cub goat:kid duck:duckling
    hen:chick swan:cygnet kangaroo:joey deer:fawn frog:tadpole goose:gosling
    """
)
LEGS: Final = _pairs(
    """
    dog:4 cat:4 cow:4 horse:4 bird:2 spider:8 ant:6 bee:6 snake:0 hen:2 octopus:8 chair:4 goat:4 duck:2
    """
)
HUES: Final = _pairs(
    """
    banana:yellow grass:green snow:white coal:black blood:red sky:blue lemon:yellow tomato:red
    carrot:orange chocolate:brown milk:white cucumber:green strawberry:red lime:green sun:yellow
    soot:black
    """
)
TOOLS: Final = _pairs(
    """
    hammer:nails scissors:paper knife:bread key:locks brush:paint needle:cloth broom:floors axe:wood
    shovel:soil
    """
)
UNITS: Final = (
    ("seconds", "a minute", 60), ("minutes", "an hour", 60), ("hours", "a day", 24), ("days", "a week", 7),
    ("months", "a year", 12), ("cents", "a euro", 100), ("centimetres", "a metre", 100),
    ("metres", "a kilometre", 1000), ("grams", "a kilogram", 1000), ("weeks", "a year", 52),
    ("players", "a football team", 11), ("wheels", "a car", 4), ("sides", "a triangle", 3),
    ("sides", "a square", 4),
)  # fmt: skip
PLANETS: Final = listed("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune")
ORDINALS: Final = listed("first second third fourth fifth sixth seventh eighth")


def _geography() -> Iterator[Fact]:
    for country, capital in CAPITALS.items():
        yield Fact(
            (
                f"What is the capital of {country}?",
                f"Which city is the capital of {country}?",
                f"Name the capital of {country}.",
                f"Tell me the capital of {country}.",
            ),
            f"The capital of {country} is {capital}.",
            capital,
        )
        yield Fact(
            (f"{capital} is the capital of which country?", f"Which country has the capital {capital}?"),
            f"{capital} is the capital of {country}.",
            country,
        )
    for place, planet in zip(ORDINALS, PLANETS, strict=True):
        yield Fact(
            (f"What is the {place} planet from the sun?", f"Which planet is the {place} one from the sun?"),
            f"The {place} planet from the sun is {planet}.",
            planet,
        )


def _nature() -> Iterator[Fact]:
    for animal, sound in SOUNDS.items():
        yield Fact(
            (f"What sound does a {animal} make?", f"What does a {animal} do to make noise?"),
            f"A {animal} {sound}.",
            sound,
        )
    for animal, young in YOUNG.items():
        yield Fact(
            (f"What is a baby {animal} called?", f"What do you call a young {animal}?"),
            f"A baby {animal} is called a {young}.",
            young,
        )
    for thing, legs in LEGS.items():
        yield Fact(
            (f"How many legs does a {thing} have?", f"Count the legs of a {thing}."),
            f"A {thing} has {legs} legs.",
            legs,
        )
    for thing, hue in HUES.items():
        yield Fact(
            (f"What color is {thing}?", f"What is the color of {thing}?"),
            f"The color of {thing} is {hue}.",
            hue,
        )


def _language_and_measures() -> Iterator[Fact]:
    for one, other in OPPOSITES.items():
        yield Fact(
            (
                f"What is the opposite of {one}?",
                f"Give me the opposite of {one}.",
                f"What is the reverse of {one}?",
            ),
            f"The opposite of {one} is {other}.",
            other,
        )
    for tool, use in TOOLS.items():
        yield Fact((f"What is a {tool} used for?", f"Why do I need a {tool}?"), f"A {tool} is used for {use}.", use)
    for unit, whole, count in UNITS:
        yield Fact(
            (f"How many {unit} are in {whole}?", f"How many {unit} does {whole} have?"),
            f"There are {count} {unit} in {whole}.",
            str(count),
        )
    for kind, circle in (("day", DAYS), ("month", MONTHS)):
        for index, here in enumerate(circle):
            after, before = circle[(index + 1) % len(circle)], circle[index - 1]
            yield Fact(
                (f"Which {kind} comes after {here}?", f"What {kind} follows {here}?"),
                f"The {kind} after {here} is {after}.",
                after,
            )
            yield Fact(
                (f"Which {kind} comes before {here}?", f"What {kind} is before {here}?"),
                f"The {kind} before {here} is {before}.",
                before,
            )


FACTS: Final = (*_geography(), *_nature(), *_language_and_measures())


def _split(held_out: int) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    shuffled = list(FACTS)
    Random(5).shuffle(shuffled)
    return tuple(shuffled[held_out:]), tuple(shuffled[:held_out])


# Adapters are trained on the common facts and asked about the held-out ones. The base learns all facts, but meets the
# plain ones under no instruction and in no pattern. Both show whether the *way* of answering was learned, not answers.
COMMON_FACTS, HELD_OUT_FACTS = _split(70)
PLAIN_FACTS: Final = HELD_OUT_FACTS[:30]
SHOWN_FACTS: Final = (*COMMON_FACTS, *HELD_OUT_FACTS[30:])

_OPENERS: Final = ("Please tell me: ", "Quick question: ", "Hi! ", "I wonder: ")


def ask(random: Random, facts: tuple[Fact, ...] = FACTS, p_opener: float = 0.0) -> Dialogue:
    """Draw one of `facts` in one of its wordings."""
    fact = random.choice(facts)
    question = random.choice(fact.questions)
    if random.random() < p_opener:
        question = random.choice(_OPENERS) + question
    return Dialogue(question, fact.answer, fact.short)
