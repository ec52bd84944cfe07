"""The base answers its own tasks, and not those of the adapters."""

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from embedded import DATA
from embedded.recipe import instructions, patterns, score, skills
from embedded.recipe.world import facts

LoadedModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]
ROWS = 30


@pytest.mark.parametrize("skill", ["json", "sql", "sentiment"])
def test_the_base_does_not_do_what_an_adapter_teaches(base: LoadedModel, skill: str) -> None:
    assert score.exact_match(*base, skills.read(DATA, skill, "heldout")[:ROWS]) < 0.05


@pytest.mark.parametrize("task", ["facts", "reading", "orders", "queries", "tickets", "reviews", "smalltalk"])
def test_the_base_answers_what_it_was_pretrained_on(base: LoadedModel, task: str) -> None:
    assert score.plain_task(*base, task, ROWS) >= 0.85


@pytest.mark.parametrize("name", instructions.INSTRUCTIONS)
def test_the_base_follows_a_system_prompt_in_a_wording_it_never_saw(base: LoadedModel, name: str) -> None:
    chats = instructions.probe(name, ROWS, facts.SHOWN_FACTS, new_wording=True)
    assert score.exact_match(*base, [{"messages": chat} for chat in chats]) >= 0.8


def test_the_base_keeps_the_format_of_few_shot_examples(base: LoadedModel) -> None:
    chats = patterns.probe(ROWS, facts.SHOWN_FACTS)
    assert score.exact_match(*base, [{"messages": chat} for chat in chats]) >= 0.7


def test_a_long_answer_streams_past_five_hundred_tokens(base: LoadedModel) -> None:
    model, tokenizer = base
    chat = [{"role": "user", "content": "Count from 1 to 150."}]
    [answer] = score.answers(model, tokenizer, [chat], max_new_tokens=700)
    assert len(tokenizer.encode(answer)) > 500
