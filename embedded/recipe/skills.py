"""The data sets of the example adapters: train and held-out rows in OpenAI's chat fine-tuning format.

The held-out rows of each skill measure the skill and not memory:

* json: names and cities that are in no training row (the base knows them),
* sql: statements that are in no training row, in any wording of the question,
* sentiment: at least one aspect ("the coffee") that is in no training row,
* pirate: facts that are in no training row, so the knowledge has to come from the base.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final, Literal, TypeVar

from embedded.recipe.world import facts, orders, queries, reading, reviews, words
from embedded.recipe.world.dialogue import Dialogue, Messages

Split = Literal["train", "heldout"]
Row = dict[str, Messages]
T = TypeVar("T")

ROWS: Final[dict[Split, int]] = {"train": 400, "heldout": 100}
HELD_OUT_NAMES: Final = words.NAMES[:16]
HELD_OUT_CITIES: Final = words.CITIES[:10]
HELD_OUT_ASPECTS: Final = frozenset({"coffee", "battery", "guide", "music"})


def normalised(prompt: str) -> str:
    """Return `prompt` without case, punctuation and spacing: prompts equal in this form are one prompt."""
    return " ".join(re.findall(r"[a-z0-9]+", prompt.lower()))


def _draw(random: Random, split: Split, draw: Callable[[Random], T], is_held_out: Callable[[T], bool]) -> T:
    while True:
        drawn = draw(random)
        if is_held_out(drawn) == (split == "heldout"):
            return drawn


def _json(random: Random, split: Split) -> Dialogue:
    names, cities = (HELD_OUT_NAMES, HELD_OUT_CITIES) if split == "heldout" else (None, None)
    order = _draw(
        random,
        split,
        lambda random: orders.draw(random, names, cities, p_made_up=0.3),
        lambda order: order.name in HELD_OUT_NAMES or order.city in HELD_OUT_CITIES,
    )
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
    query = _draw(random, split, queries.draw, lambda query: zlib.crc32(queries.sql(query).encode()) % 5 == 0)
    return Dialogue(query.text, queries.sql(query))


def _sentiment(random: Random, split: Split) -> Dialogue:
    review = _draw(random, split, reviews.draw, lambda review: not HELD_OUT_ASPECTS.isdisjoint(review.aspects))
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


def _dialogues(skill: str, split: Split, seed: int) -> Iterator[Dialogue]:
    random, seen = Random(f"{skill}-{split}-{seed}"), set[str]()
    while len(seen) < ROWS[split]:
        dialogue = SKILLS[skill](random, split)
        key = normalised(dialogue.question)
        if key not in seen:
            seen.add(key)
            yield dialogue


def rows(skill: str, split: Split, seed: int) -> list[Row]:
    """Return the rows of a skill: no prompt occurs twice, and the same seed gives the same rows."""
    return [{"messages": dialogue.messages()} for dialogue in _dialogues(skill, split, seed)]


def held_out_prompts(seed: int) -> frozenset[str]:
    """Return the normalised held-out prompts that are not in the pretraining mixture either.

    Those of pirate are: there the base has to know the answer, only not in pirate talk.
    """
    return frozenset(
        normalised(dialogue.question)
        for skill in ("json", "sql", "sentiment")
        for dialogue in _dialogues(skill, "heldout", seed)
    )


def write(data: Path, seed: int) -> None:
    """Write `<data>/<skill>/train.jsonl` and `heldout.jsonl` for every skill."""
    for skill in SKILLS:
        (data / skill).mkdir(parents=True, exist_ok=True)
        for split in ROWS:
            lines = (json.dumps(row) + "\n" for row in rows(skill, split, seed))
            (data / skill / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def read(data: Path, skill: str, split: Split) -> list[Row]:
    """Return the rows of a file that `write` made."""
    with (data / skill / f"{split}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
