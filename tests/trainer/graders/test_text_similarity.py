"""text_similarity: metrics over rendered texts, the longest text, and cosine by the server's own embeddings."""

from __future__ import annotations

import pytest

from tests.trainer.graders.conftest import FakeModels, Grading
from trainer.errors import InvalidField
from trainer.graders.grader import GradingError
from trainer.graders.text_similarity import MAX_CHARACTERS, METRICS

GRADER = {
    "type": "text_similarity",
    "name": "close",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}


@pytest.mark.parametrize("metric", METRICS)
async def test_equal_texts_are_worth_one(grade: Grading, metric: str):
    text = "The quick brown fox jumps over the lazy dog"
    graded = await grade({**GRADER, "evaluation_metric": metric}, text, answer=text)
    assert graded.reward == pytest.approx(1, abs=0.001)  # METEOR: one chunk is a fragment too


async def test_the_input_is_compared_with_the_reference_and_not_the_other_way_round(grade: Grading):
    graded = await grade({**GRADER, "evaluation_metric": "bleu"}, "the cat", answer="the cat sat")
    assert graded.reward == pytest.approx(0.6065, abs=5e-5)  # the short one pays for its brevity: exp(1 - 3/2)


@pytest.mark.parametrize(("answer", "expected"), [("x" * (MAX_CHARACTERS + 1), "x"), ("x", "x" * (MAX_CHARACTERS + 1))])
@pytest.mark.parametrize("metric", ["fuzzy_match", "rouge_l"])
async def test_a_text_that_is_too_long_is_not_compared(grade: Grading, metric: str, answer: str, expected: str):
    graded = await grade({**GRADER, "evaluation_metric": metric}, answer, answer=expected)
    assert graded.reward == 0
    assert "100,000 characters, and one has 100,001" in graded.errors[GradingError.OTHER]


@pytest.mark.parametrize("metric", METRICS)
async def test_the_longest_texts_are_compared(grade: Grading, metric: str):
    answer, expected = ((words * MAX_CHARACTERS)[:MAX_CHARACTERS] for words in ("a b c d e f ", "a b c d e f g "))
    assert 0 < (await grade({**GRADER, "evaluation_metric": metric}, answer, answer=expected)).reward < 1


async def test_cosine_is_refused_where_nothing_embeds(grade: Grading):
    with pytest.raises(InvalidField, match="choose fuzzy_match") as refused:
        await grade({**GRADER, "evaluation_metric": "cosine"}, "a", answer="b")
    assert refused.value.param == "grader.evaluation_metric"


async def test_cosine_compares_the_servers_embeddings(grade: Grading, models: FakeModels):
    models.vectors = [[3.0, 4.0], [4.0, 3.0]]
    assert (await grade({**GRADER, "evaluation_metric": "cosine"}, "a", answer="b")).reward == pytest.approx(0.96)


async def test_an_embedding_that_fails_is_a_server_error(grade: Grading, models: FakeModels):
    models.vectors, models.failure = [], "the text is longer than the model's context"
    graded = await grade({**GRADER, "evaluation_metric": "cosine"}, "a", answer="b")
    assert (graded.reward, graded.errors) == (0, {GradingError.MODEL_SERVER: models.failure})
