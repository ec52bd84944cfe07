"""Versions compared by what the real engine answers with them."""

from __future__ import annotations

import pytest


@pytest.fixture
def diff(http):
    async def compared(a, b):
        response = await http.post("/v1/adapters/diff", json={"a": a, "b": b})
        assert response.status_code == 200, response.text
        return response.json()

    return compared


async def test_a_version_answers_as_itself_and_as_another_version_of_the_same_bytes(diff, push, variant):
    weaker = (await push("weaker", variant("sql", 0.5))).json()["id"]
    same = (await diff("sql@1", "sql@stable"))["answers"]
    assert same["distance"] == {"mean": 0, "max": 0}
    assert same["effect_a"] == same["effect_b"]
    half = (await diff("sql@1", weaker))["answers"]
    assert 0 < half["effect_b"]["mean"] < half["effect_a"]["mean"] == same["effect_a"]["mean"]
    assert 0 < half["distance"]["mean"] < half["distance"]["max"]


async def test_adapters_of_different_skills_answer_apart_and_both_unlike_the_base(diff):
    found = await diff("sql", "pirate")
    answers = found["answers"]
    assert (found["notes"], answers["tokens"] > 100) == ([], True)
    assert all(answers[each]["mean"] > 0.1 for each in ("distance", "effect_a", "effect_b"))
    back = (await diff("pirate", "sql"))["answers"]
    assert back["distance"] == answers["distance"]
    assert (back["effect_a"], back["effect_b"]) == (answers["effect_b"], answers["effect_a"])
