"""A definition that is wrong is refused by the path of the field that is."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.errors import InvalidField
from trainer.graders.parsing import parse

CHECK = {"type": "string_check", "name": "c", "input": "a", "reference": "b", "operation": "eq"}
SIMILAR = {"type": "text_similarity", "input": "a", "reference": "b", "evaluation_metric": "bleu"}
SCORE = {"type": "score_model", "model": "m", "input": [{"role": "user", "content": "a"}]}
LABEL = {**SCORE, "type": "label_model", "labels": ["x", "y"], "passing_labels": ["x"]}
PYTHON = {"type": "python", "name": "p", "source": "def grade(sample, item): return 1.0", "image_tag": "2025-05-08"}
SCHEMA = {"type": "json_schema", "name": "s", "schema": {"type": "object"}}
MULTI = {"type": "multi", "graders": {"a": CHECK}, "calculate_output": "a"}


def content(block: Any) -> dict[str, Any]:
    return {**SCORE, "input": [{"role": "user", "content": block}]}


def without(definition: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in definition.items() if name != key}


@pytest.mark.parametrize("definition", [CHECK, SIMILAR, SCORE, LABEL, MULTI, PYTHON, SCHEMA])
def test_a_definition_is_read(definition: dict[str, Any]):
    assert parse(definition, "grader").type == definition["type"]


@pytest.mark.parametrize(
    ("definition", "param", "reason"),
    [
        ({}, "type", "Field required"),
        ({"type": None}, "type", "string_check"),
        ({"type": "endpoint"}, "type", "'string_check', 'text_similarity', 'json_schema', 'python'"),
        (without(CHECK, "operation"), "operation", "Field required"),
        ({**CHECK, "operation": "neq"}, "operation", "'eq', 'ne', 'like' or 'ilike'"),
        ({**CHECK, "input": 1}, "input", "string"),
        ({**CHECK, "reference": "{{ref}}"}, "reference", "{{ref}} should be like {{item.key}}"),
        ({**CHECK, "refrence": "b"}, "refrence", "not permitted"),
        ({**CHECK, "name": 1}, "name", "string"),
        ({**CHECK, "pass_threshold": float("nan")}, "pass_threshold", "finite"),
        ({**SIMILAR, "evaluation_metric": "rouge_6"}, "evaluation_metric", "rouge_5"),
        (without(SCORE, "model"), "model", "Field required"),
        ({**SCORE, "input": "a"}, "input", "list"),
        ({**SCORE, "input": []}, "input", "at least 1"),
        ({**SCORE, "input": [{"role": "tool", "content": "a"}]}, "input.0.role", "'developer'"),
        (content("{{x}}"), "input.0.content", "{{x}} should be"),
        (content(5), "input.0.content", "found 5"),
        (content({"type": "input_text"}), "input.0.content.text", "Field required"),
        (content({"type": "input_file"}), "input.0.content.type", "'input_text'"),
        (content(["a", {"type": "input_text", "text": 1}]), "input.0.content.1.text", "string"),
        (content([{"type": "input_audio", "input_audio": {"data": ""}}]), "input.0.content.0.input_audio.format", ""),
        ({**SCORE, "range": [0]}, "range", "at least 2"),
        ({**SCORE, "range": [1, 1]}, "range", "the smaller one first"),
        ({**SCORE, "range": [0, float("inf")]}, "range.1", "finite"),
        ({**SCORE, "sampling_params": {"temperature": 3}}, "sampling_params.temperature", "less than or equal to 2"),
        ({**SCORE, "sampling_params": {"max_tokens": 3}}, "sampling_params.max_tokens", "not permitted"),
        ({**SCORE, "sampling_params": {"reasoning_effort": "huge"}}, "sampling_params.reasoning_effort", "'medium'"),
        ({**LABEL, "labels": []}, "labels", "at least 1"),
        ({**LABEL, "passing_labels": ["z"]}, "passing_labels", "'z' is not one"),
        ({"type": "python"}, "source", "Field required"),
        ({"type": "python", "source": 1, "image_tag": "x"}, "source", "string"),
        ({"type": "python", "source": "#" * (256 * 1024 + 1)}, "source", "262,144 bytes, and has 262,145"),
        ({"type": "json_schema"}, "schema", "Field required"),
        ({"type": "json_schema", "schema": True}, "schema", "dictionary"),
        ({"type": "json_schema", "schema": {"const": "x" * (1 << 16)}}, "schema", "65,536 bytes"),
        ({**MULTI, "graders": {}}, "graders", "at least 1"),
        ({**MULTI, "graders": [CHECK]}, "graders", "dictionary"),
        ({**MULTI, "graders": {"a b": CHECK}}, "graders.a b", "pattern"),
        ({**MULTI, "graders": {"a": {**CHECK, "operation": "is"}}}, "graders.a.operation", "'ilike'"),
        ({**MULTI, "graders": {"string_check": {**CHECK, "input": 1}}}, "graders.string_check.input", "string"),
        ({**MULTI, "graders": {**CHECK, "operation": "is"}}, "graders.c.operation", "'ilike'"),
        ({**MULTI, "graders": {**CHECK, "name": {}}}, "graders.string_check.name", "string"),
        ({**MULTI, "graders": {"a": MULTI}}, "graders.a.type", "'label_model'"),
        ({**MULTI, "graders": {"a": {"type": "python", "source": ""}}}, "graders.a.source", "at least 1"),
        ({**MULTI, "graders": {f"a{n}": CHECK for n in range(33)}}, "graders", "at most 32"),
        ({**MULTI, "calculate_output": "a + b"}, "calculate_output", "'b'"),
        ({**MULTI, "calculate_output": "a.b"}, "calculate_output", "no arithmetic"),
    ],
)
def test_a_wrong_field_is_named(definition: dict[str, Any], param: str, reason: str):
    with pytest.raises(InvalidField) as refused:
        parse(definition, "grader")
    assert refused.value.param == f"grader.{param}"
    assert refused.value.message.startswith(f"grader.{param}: ")
    assert reason in refused.value.message
