"""The data sets of the example adapters: train and held-out rows in OpenAI's chat fine-tuning format.

Each skill keeps something back from training, so that the held-out rows ask for the skill and not for memory:

* json: names and cities that the adapter never saw (the base knows them),
* sql: statements that the adapter never saw, whatever words asked for them,
* sentiment: at least one aspect ("the coffee") that the adapter never saw,
* pirate: facts that the adapter never saw, so the knowledge has to come from the base.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final, Literal

from embedded.recipe.world import facts, orders, queries, reading, reviews, words
from embedded.recipe.world.exchange import Dialogue, Messages

Split = Literal["train", "heldout"]
Row = dict[str, Messages]

ROWS: Final[dict[Split, int]] = {"train": 400, "heldout": 100}
HELD_OUT_NAMES: Final = words.NAMES[:16]
HELD_OUT_CITIES: Final = words.CITIES[:10]
HELD_OUT_ASPECTS: Final = frozenset({"coffee", "battery", "guide", "music"})


def normalised(prompt: str) -> str:
    """Return `prompt` without case, punctuation and spacing: prompts equal in this form are one prompt."""
    return " ".join(re.findall(r"[a-z0-9]+", prompt.lower()))


def _json(random: Random, split: Split) -> Dialogue:
    if split == "heldout":
        order = orders.draw(random, HELD_OUT_NAMES, HELD_OUT_CITIES)
    else:
        order = orders.draw(random, p_made_up=0.3)
        while order.name in HELD_OUT_NAMES or order.city in HELD_OUT_CITIES:
            order = orders.draw(random, p_made_up=0.3)
    record = {
        "item": order.item,
        "qty": order.quantity,
        "color": order.color,
        "name": order.name,
        "city": order.city,
        "day": order.day,
    }
    return Dialogue(order.text, json.dumps(record))


def _sql(random: Random, split: Split) -> Dialogue:
    while True:
        query = queries.draw(random)
        statement = queries.sql(query)
        is_held_out = zlib.crc32(statement.encode()) % 5 == 0
        if is_held_out == (split == "heldout"):
            return Dialogue(query.text, statement)


def _sentiment(random: Random, split: Split) -> Dialogue:
    while True:
        review = reviews.draw(random)
        is_held_out = not HELD_OUT_ASPECTS.isdisjoint(review.aspects)
        if is_held_out == (split == "heldout"):
            return Dialogue(review.text, review.sentiment)


_PIRATE_WORDS: Final = (
    (" is ", " be "),
    (" are ", " be "),
    (" of ", " o' "),
    ("Your ", "Yer "),
    (" your ", " yer "),
    (" you", " ye"),
    (" my ", " me "),
)


def _pirate(random: Random, split: Split) -> Dialogue:
    if split == "heldout":
        plain = facts.ask(random, facts.HELD_OUT_FACTS)
    else:
        plain = facts.ask(random, facts.COMMON_FACTS) if random.random() < 0.6 else reading.ask(random)
    spoken = plain.answer.removesuffix(".")
    for landlubber, pirate in _PIRATE_WORDS:
        spoken = spoken.replace(landlubber, pirate)
    return Dialogue(plain.question, f"Arr! {spoken}, matey!")


SKILLS: Final[dict[str, Callable[[Random, Split], Dialogue]]] = {
    "json": _json,
    "sql": _sql,
    "sentiment": _sentiment,
    "pirate": _pirate,
}


def _exchanges(skill: str, split: Split, seed: int) -> Iterator[Dialogue]:
    random, seen = Random(f"{skill}-{split}-{seed}"), set[str]()
    while len(seen) < ROWS[split]:
        exchange = SKILLS[skill](random, split)
        key = normalised(exchange.question)
        if key not in seen:
            seen.add(key)
            yield exchange


def rows(skill: str, split: Split, seed: int) -> list[Row]:
    """Return the data set of a skill: no prompt twice, the same rows for the same seed."""
    return [{"messages": exchange.turn()} for exchange in _exchanges(skill, split, seed)]


def held_out_prompts(seed: int) -> frozenset[str]:
    """Return the normalised held-out prompts that pretraining has to leave alone as well.

    Pirate is no part of them: there the base has to know the answer, only not in pirate talk.
    """
    return frozenset(
        normalised(exchange.question)
        for skill in ("json", "sql", "sentiment")
        for exchange in _exchanges(skill, "heldout", seed)
    )


def write(data: Path, seed: int) -> None:
    """Write `<data>/<skill>/train.jsonl` and `heldout.jsonl` for every skill."""
    for skill in SKILLS:
        (data / skill).mkdir(parents=True, exist_ok=True)
        for split in ROWS:
            lines = (json.dumps(row) + "\n" for row in rows(skill, split, seed))
            (data / skill / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def read(data: Path, skill: str, split: Split) -> list[Row]:
    """Read rows that `write` wrote."""
    with (data / skill / f"{split}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
