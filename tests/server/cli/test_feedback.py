"""`patchbay feedback` against a running server."""

from __future__ import annotations

import json

import httpx
import pytest


@pytest.fixture
def answers(server) -> list[str]:
    """The ids of two stored answers to the same prompt, of the base model and of an adapter."""
    messages = [{"role": "user", "content": "Who?"}]
    bodies = [{"model": model, "messages": messages, "store": True} for model in ("base", "sql")]
    return [httpx.post(f"{server.url}/v1/chat/completions", json=body).json()["id"] for body in bodies]


def test_feedback_is_given_listed_and_removed(call, answers) -> None:
    base, sql = answers
    rated = call("feedback", "give", sql, "--up").stdout.strip()
    preferred = call("feedback", "give", sql, "--over", base).stdout.strip()
    header, *lines = call("feedback", "list").stdout.splitlines()
    assert header.split() == ["ID", "KIND", "RATING", "ANSWERS", "CREATED"]
    assert [line.split()[:2] for line in lines] == [[preferred, "preference"], [rated, "rating"]]
    assert f"{sql} (sql@1), {base} (base)" in lines[0]
    assert call("feedback", "rm", rated).exit_code == 0
    assert [each["id"] for each in json.loads(call("feedback", "list", "--json").stdout)["data"]] == [preferred]
    assert call("feedback", "rm", rated).exit_code != 0


def test_a_training_file_is_made_and_downloaded(call, server, answers, tmp_path) -> None:
    call("feedback", "give", answers[1], "--correction", "I am sql.")
    to = tmp_path / "rows.jsonl"
    file_id = call("feedback", "export", "--as", "dpo", "--adapter", "sql", "--output", str(to)).stdout.strip()
    (row,) = map(json.loads, to.read_text().splitlines())
    assert row["preferred_output"] == [{"role": "assistant", "content": "I am sql."}]
    assert httpx.get(f"{server.url}/v1/files/{file_id}").json()["purpose"] == "fine-tune"
    refused = call("feedback", "export", "--as", "dpo", "--adapter", "json")
    assert refused.exit_code != 0
    assert "no feedback" in refused.stderr


@pytest.mark.parametrize("options", [(), ("--up", "--correction", "x"), ("--down", "--over", "y")])
def test_feedback_is_one_thing(call, options) -> None:
    result = call("feedback", "give", "chatcmpl-1", *options)
    assert result.exit_code == 2
    assert "one of --up" in result.stderr
