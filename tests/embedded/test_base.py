"""What the base can do by itself, and what it leaves to adapters."""

from random import Random

import pytest

from embedded import DATA
from embedded.recipe import instructions, mixture, patterns, score, skills

ROWS = 30


@pytest.mark.parametrize("skill", ["json", "sql", "sentiment"])
def test_the_base_does_not_do_what_an_adapter_teaches(base, skill):
    assert score.exact_match(*base, skills.read(DATA, skill, "heldout")[:ROWS]) < 0.05


@pytest.mark.parametrize("task", ["facts", "reading", "orders", "queries", "tickets", "reviews", "smalltalk"])
def test_the_base_answers_in_plain_sentences(base, task):
    random = Random(f"plain-{task}")
    exchanges = [mixture.TASKS[task](random) for _ in range(ROWS)]
    rows = [{"messages": exchange.turn()} for exchange in exchanges]
    assert score.exact_match(*base, rows) >= 0.85


@pytest.mark.parametrize(("name", "least"), [("terse", 0.8), ("polite", 0.8), ("capitals", 0.5)])
def test_the_base_follows_a_system_prompt_for_facts_it_never_met_under_one(base, name, least):
    rows = [{"messages": chat} for chat in instructions.held_out(name, ROWS)]
    assert score.exact_match(*base, rows) >= least


def test_the_base_keeps_the_format_of_few_shot_examples(base):
    rows = [{"messages": chat} for chat in patterns.held_out(ROWS)]
    assert score.exact_match(*base, rows) >= 0.7


def test_a_long_answer_streams_past_five_hundred_tokens(base):
    model, tokenizer = base
    chat = [{"role": "user", "content": "Count from 1 to 150."}]
    [answer] = score.answers(model, tokenizer, [chat], max_new_tokens=700)
    assert len(tokenizer.encode(answer)) > 500
