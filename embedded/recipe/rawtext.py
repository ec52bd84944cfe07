"""Plain text without a chat around it: JSON, SQL, code and prose.

As a real base model, this one meets the syntax of the json and sql adapters only here, never as an answer in a chat.
The prose is made from templates too: a text whose licence is unclear has no place in weights that are given away.
"""

import json
from collections.abc import Callable
from random import Random
from typing import Final

from embedded.recipe.world import words
from embedded.recipe.world.words import listed

_KEYS: Final = listed(
    "id name city color count item day user size price tag owner place amount kind date code state type label from to "
    "qty"
)
_COLUMNS: Final = listed("id name size color price city owner kind amount date stock age year title")
_TABLES: Final = listed("users items orders events stores cars rooms teams tools shops")


_JSON_VALUES: Final[tuple[Callable[[Random], str | int], ...]] = (
    lambda random: random.randint(0, 99),
    words.name,
    words.city,
    words.label,
    words.label,
    words.items,
    words.word,
)
_STATEMENTS: Final = (
    "SELECT {first} FROM {table} WHERE {where};",
    "SELECT {first}, {third} FROM {table} WHERE {where};",
    "SELECT {first} FROM {table} WHERE {where} AND {third} > {bound};",
    "SELECT COUNT(*) FROM {table} WHERE {where};",
    "SELECT {first} FROM {table} ORDER BY {second}{direction};",
    "DELETE FROM {table} WHERE {where};",
)


def _json(random: Random) -> str:
    keys = random.sample(_KEYS, random.randint(2, 5))
    return json.dumps({key: random.choice(_JSON_VALUES)(random) for key in keys})


def _sql(random: Random) -> str:
    first, second, third = random.sample(_COLUMNS, 3)
    table = random.choice(_TABLES)
    where = random.choice(
        (
            f"{second} {random.choice('><=')} {random.randint(1, 999)}",
            f"{second} = '{words.word(random)}'",
            f"{second} = '{words.city(random)}'",
            f"{second} = '{words.name(random)}'",
            f"{second} = '{words.label(random)}'",
        )
    )
    bound, direction = random.randint(1, 99), random.choice(("", " DESC"))
    return random.choice(_STATEMENTS).format(
        first=first, second=second, third=third, table=table, where=where, bound=bound, direction=direction
    )


def _code(random: Random) -> str:
    one, two, three = (words.word(random) for _ in range(3))
    return random.choice(
        (
            f"def {one}({two}, {three}):\n    return {two} + {three}",
            f"for {two} in {three}:\n    print({two})",
            f"{two} = {random.randint(0, 99)}\nif {two} > {random.randint(0, 99)}:\n    {three}()",
            f"import {one}\n{one}.{two}('{three}')",
        )
    )


def _prose(random: Random) -> str:
    """Three sentences about one person: later words depend on the first sentence."""
    name, city = words.name(random), words.city(random)
    job, pet = random.choice(words.JOBS), random.choice(words.PETS)
    food, hobby = random.choice(words.FOODS), random.choice(words.HOBBIES)
    color, item, day = random.choice(words.COLORS), random.choice(words.ITEMS), random.choice(words.DAYS)
    return " ".join(
        (
            random.choice((f"{name} is a {job} in {city}.", f"In {city} there is a {job}, {name}.")),
            random.choice((f"Every {day} {name} goes {hobby}.", f"On {day} {name} eats {food} with a friend.")),
            random.choice((f"The {pet} of {name} sleeps on a {color} {item}.", f"The {job} owns a {color} {item}.")),
        )
    )


_KINDS: Final[tuple[Callable[[Random], str], ...]] = (_json, _json, _json, _sql, _sql, _code, _prose, _prose)


def draw(random: Random) -> str:
    """Draw one text."""
    return random.choice(_KINDS)(random)
