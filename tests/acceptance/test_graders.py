"""Graders by OpenAI's client on the real engine. The embedded base judges nothing well; its answers have the form."""

from __future__ import annotations

import re

import pytest
from openai import BadRequestError

ITEM = {"answer": "SELECT author FROM books WHERE year > 17;"}
CHECK = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
SIMILAR = {
    "type": "text_similarity",
    "name": "alike",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "evaluation_metric": "rouge_l",
}
JUDGE = {
    "name": "judge",
    "model": "embedded-base",
    "input": [
        {"role": "developer", "content": "Compare both."},
        {"role": "user", "content": "Right: {{item.answer}} Said: {{sample.output_text}}"},
    ],
}
SCORE = {**JUDGE, "type": "score_model", "range": [2, 5], "sampling_params": {"temperature": 0, "seed": 7}}
LABEL = {**JUDGE, "type": "label_model", "labels": ["good", "bad"], "passing_labels": ["good"]}


@pytest.fixture
def graders(client):
    return client.fine_tuning.alpha.graders


@pytest.mark.parametrize(("model", "answered"), [("embedded-base", "embedded-base"), ("sentiment", "sentiment@1")])
async def test_a_model_that_knows_nothing_of_grading_says_a_number_and_it_is_held_to_the_range(
    graders, model, answered
):
    grader = {**SCORE, "model": model}
    await graders.validate(grader=grader)
    graded = await graders.run(grader=grader, model_sample=ITEM["answer"], item=ITEM)
    assert not any(graded.metadata.errors.to_dict().values()), graded.to_dict()
    assert graded.reward == min(5, max(2, graded.metadata.scores["result"]))
    assert graded.metadata.sampled_model_name == answered
    usage = graded.api_model_grader_token_usage_per_model[answered]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] == graded.metadata.token_usage
    assert usage["completion_tokens"] > 5


async def test_graders_of_every_kind_are_combined(graders, client):
    question = [{"role": "user", "content": "List the author of books with a year above 17."}]
    answer = await client.chat.completions.create(model="sql", messages=question, temperature=0, max_tokens=40)
    kinds = {"exact": CHECK, "alike": SIMILAR, "judge": SCORE, "label": LABEL}
    grader = {"type": "multi", "graders": kinds, "calculate_output": "(exact + alike) / 2 + 0 * (judge + label)"}
    await graders.validate(grader=grader)
    graded = await graders.run(grader=grader, model_sample=answer.choices[0].message.content.strip(), item=ITEM)
    assert not any(graded.metadata.errors.to_dict().values()), graded.to_dict()
    assert graded.reward == 1
    assert graded.sub_rewards["label"] in {0, 1}
    assert graded.metadata.scores["label"]["label"] in {"good", "bad"}


async def test_code_grades_answers_beside_other_graders(graders, client):
    words = "len(re.findall('[a-z]+', sample['output_text']))"
    source = f"import re\n\ndef grade(sample, item):\n    return {words} / item['n']\n"
    code = {"type": "python", "name": "code", "source": source}
    try:
        await graders.validate(grader=code)
    except BadRequestError as refused:
        pytest.skip(refused.message)
    question = [{"role": "user", "content": "List the author of books with a year above 17."}]
    answer = await client.chat.completions.create(model="sql", messages=question, temperature=0, max_tokens=40)
    text = answer.choices[0].message.content
    shape = {"type": "json_schema", "name": "shape", "schema": {"type": "object"}}
    kinds = {"code": code, "shape": shape}
    both = {"type": "multi", "name": "both", "graders": kinds, "calculate_output": "code - shape"}
    graded = await graders.run(grader=both, model_sample=text, item={"n": 4})
    assert graded.reward == len(re.findall("[a-z]+", text)) / 4
    hostile = {**code, "source": "def grade(sample, item):\n    return len(open('/etc/passwd').read())"}
    graded = await graders.run(grader=hostile, model_sample=text)
    assert (graded.reward, graded.metadata.errors.python_grader_runtime_error) == (0, True)


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        ({"type": "python", "source": ""}, "grader.source"),
        ({"type": "json_schema", "schema": {"type": "text"}}, "grader.schema"),
        ({**SIMILAR, "evaluation_metric": "cosine"}, "grader.evaluation_metric"),
        ({**SCORE, "model": "gpt-4o"}, "grader.model"),
    ],
)
async def test_what_this_server_cannot_grade_by_is_refused_by_its_field(graders, grader, param):
    with pytest.raises(BadRequestError) as refused:
        await graders.run(grader=grader, model_sample="a", item=ITEM)
    assert refused.value.param == param
