"""The data sets are the same for the same seed, and no held-out row is trained on."""

import json
from itertools import islice
from pathlib import Path

import pytest

from embedded import DATA
from embedded.recipe import instructions, mixture, skills
from embedded.recipe.world import facts


def _prompts(skill: str, split: skills.Split) -> set[str]:
    return {skills.normalised(row["messages"][0]["content"]) for row in skills.read(DATA, skill, split)}


@pytest.fixture(scope="module")
def documents() -> list[mixture.Document]:
    return list(islice(mixture.documents(0), 10_000))


@pytest.mark.parametrize("skill", skills.SKILLS)
def test_committed_data_is_what_the_recipe_makes_from_its_seed(skill: str, tmp_path: Path) -> None:
    skills.write(tmp_path, seed=0)
    for split in skills.ROWS:
        made, committed = (folder / skill / f"{split}.jsonl" for folder in (tmp_path, DATA))
        assert made.read_bytes() == committed.read_bytes()


@pytest.mark.parametrize("skill", skills.SKILLS)
def test_a_data_set_has_four_hundred_training_and_a_hundred_held_out_prompts(skill: str) -> None:
    assert {split: len(_prompts(skill, split)) for split in skills.ROWS} == {"train": 400, "heldout": 100}


@pytest.mark.parametrize("skill", skills.SKILLS)
def test_no_held_out_prompt_is_a_training_prompt(skill: str) -> None:
    assert _prompts(skill, "train").isdisjoint(_prompts(skill, "heldout"))


def test_held_out_orders_name_people_and_cities_that_training_does_not() -> None:
    def named(split: skills.Split) -> set[str]:
        records = (json.loads(row["messages"][1]["content"]) for row in skills.read(DATA, "json", split))
        return {value for record in records for value in (record["name"], record["city"])}

    assert named("train").isdisjoint(named("heldout"))


def test_held_out_statements_are_not_training_statements() -> None:
    def statements(split: skills.Split) -> set[str]:
        return {row["messages"][1]["content"] for row in skills.read(DATA, "sql", split)}

    assert statements("train").isdisjoint(statements("heldout"))


def test_each_held_out_review_has_an_aspect_that_training_does_not() -> None:
    assert not any(set(prompt.split()) & skills.HELD_OUT_ASPECTS for prompt in _prompts("sentiment", "train"))
    assert all(set(prompt.split()) & skills.HELD_OUT_ASPECTS for prompt in _prompts("sentiment", "heldout"))


def test_pirate_training_asks_for_no_held_out_fact() -> None:
    held_out = {skills.normalised(question) for fact in facts.HELD_OUT_FACTS for question in fact.questions}
    assert _prompts("pirate", "heldout") <= held_out
    assert _prompts("pirate", "train").isdisjoint(held_out)


def test_pretraining_never_asks_a_held_out_prompt_of_an_adapter(documents: list[mixture.Document]) -> None:
    asked = {
        skills.normalised(message["content"])
        for document in documents
        if isinstance(document, mixture.Chat)
        for message in document.messages
    }
    for skill in ("json", "sql", "sentiment"):
        assert asked.isdisjoint(_prompts(skill, "heldout"))


def test_plain_facts_are_never_asked_under_an_instruction_or_in_a_pattern(documents: list[mixture.Document]) -> None:
    plain = {question for fact in facts.PLAIN_FACTS for question in fact.questions}
    wordings = [wording for each in instructions.INSTRUCTIONS.values() for wording in each.wordings]
    asking = [
        document
        for document in documents
        if isinstance(document, mixture.Chat) and any(message["content"] in plain for message in document.messages)
    ]
    assert asking
    for document in asking:
        system = "".join(message["content"] for message in document.messages if message["role"] == "system")
        assert document.context == 0
        assert not any(wording in system for wording in wordings)
