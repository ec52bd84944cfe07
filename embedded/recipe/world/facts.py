"""General knowledge that the base learns by heart, each fact with several wordings of its question."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from embedded.recipe.world import words
from embedded.recipe.world.dialogue import Dialogue


@dataclass(frozen=True, slots=True)
class Fact:
    """One piece of knowledge: wordings of the question, the full sentence, the bare answer."""

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
PLANETS: Final = words.listed("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune")
ORDINALS: Final = words.listed("first second third fourth fifth sixth seventh eighth")


def _circle(kind: str, names: list[str]) -> list[tuple[str, ...]]:
    """Return (kind, name, next name, previous name) for each of `names`; the first follows the last."""
    return [(kind, name, names[(n + 1) % len(names)], names[n - 1]) for n, name in enumerate(names)]


def _facts(pool: Iterable[tuple[object, ...]], *templates: str) -> Iterator[Fact]:
    """Yield one fact per tuple of values and template ("bare answer / full answer / question / question …")."""
    for values in pool:
        for template in templates:
            short, answer, *questions = template.format(*values).split(" / ")
            yield Fact(tuple(questions), answer, short)


FACTS: Final = (
    *_facts(
        CAPITALS.items(),
        "{1} / The capital of {0} is {1}. / What is the capital of {0}? / Which city is the capital of {0}? / "
        "Name the capital of {0}. / Tell me the capital of {0}.",
        "{0} / {1} is the capital of {0}. / {1} is the capital of which country? / Which country has the capital {1}?",
    ),
    *_facts(
        zip(ORDINALS, PLANETS, strict=True),
        "{1} / The {0} planet from the sun is {1}. / What is the {0} planet from the sun? / "
        "Which planet is the {0} one from the sun?",
    ),
    *_facts(SOUNDS.items(), "{1} / A {0} {1}. / What sound does a {0} make? / What does a {0} do to make noise?"),
    *_facts(
        YOUNG.items(), "{1} / A baby {0} is called a {1}. / What is a baby {0} called? / What do you call a young {0}?"
    ),
    *_facts(LEGS.items(), "{1} / A {0} has {1} legs. / How many legs does a {0} have? / Count the legs of a {0}."),
    *_facts(HUES.items(), "{1} / The color of {0} is {1}. / What color is {0}? / What is the color of {0}?"),
    *_facts(
        OPPOSITES.items(),
        "{1} / The opposite of {0} is {1}. / What is the opposite of {0}? / Give me the opposite of {0}. / "
        "What is the reverse of {0}?",
    ),
    *_facts(TOOLS.items(), "{1} / A {0} is used for {1}. / What is a {0} used for? / Why do I need a {0}?"),
    *_facts(UNITS, "{2} / There are {2} {0} in {1}. / How many {0} are in {1}? / How many {0} does {1} have?"),
    *_facts(
        (*_circle("day", words.DAYS), *_circle("month", words.MONTHS)),
        "{2} / The {0} after {1} is {2}. / Which {0} comes after {1}? / What {0} follows {1}?",
        "{3} / The {0} before {1} is {3}. / Which {0} comes before {1}? / What {0} is before {1}?",
    ),
)


def _split(held_out: int) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    shuffled = list(FACTS)
    Random(5).shuffle(shuffled)
    return tuple(shuffled[held_out:]), tuple(shuffled[:held_out])


# Adapters are trained on the common facts and scored on the held-out ones. The base learns all facts, but meets the
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


def ask_shown(random: Random) -> Dialogue:
    """Draw one of the facts that may be asked under an instruction or in a pattern."""
    return ask(random, SHOWN_FACTS)
