"""What scores say about an adapter."""

from __future__ import annotations

from math import inf, nan

import pytest

from adapters.errors import AdapterRefused
from server.probe.verdict import Distance, ReferenceScores, compare, judge

BASE = [[-1.0, -2.0], [-3.0]]


def test_a_distance_is_the_mean_and_the_largest_difference() -> None:
    distance = Distance.between([[-1.5, -2.0], [-2.0]], BASE)
    assert (distance.mean, distance.max) == (0.5, 1.0)


def test_an_adapter_that_changes_something_passes_with_its_numbers() -> None:
    assert judge([[-1.0, -2.0], [-2.7]], BASE, allow_inert=False) == {
        "prompts": 2,
        "tokens": 3,
        "effect": {"mean": 0.1, "max": 0.3},
        "notes": [],
    }


@pytest.mark.parametrize(
    "scores",
    [
        [[-1.0, nan], [-3.0]],
        [[-1.0, -2.0], [-inf]],
        [[-1.0, -2.0], []],
    ],
    ids=["NaN", "infinite", "missing"],
)
def test_a_score_that_is_no_number_is_a_refusal(scores: list[list[float]]) -> None:
    with pytest.raises(AdapterRefused, match="for 1 of 3 tokens"):
        judge(scores, BASE, allow_inert=True)


def test_the_same_score_for_every_token_is_an_overflow() -> None:
    with pytest.raises(AdapterRefused, match=r"the same log-probability, -8\.3178, for all 3 tokens"):
        judge([[-8.3178, -8.3178], [-8.3178]], BASE, allow_inert=True)


def test_an_inert_adapter_is_refused_with_the_way_out_unless_it_is_allowed() -> None:
    with pytest.raises(AdapterRefused, match="--allow-inert"):
        judge(BASE, BASE, allow_inert=False)
    allowed = judge(BASE, BASE, allow_inert=True)
    assert allowed["effect"] == {"mean": 0, "max": 0}
    assert allowed["notes"][0].startswith("inert")


def test_an_adapter_agrees_with_peft_as_far_as_the_base_model_does() -> None:
    opinion = ReferenceScores(base=[[-1.02, -2.02], [-3.02]], adapter=[[-4.1, -5.1], [-6.1]])
    assert compare([[-4.0, -5.0], [-6.0]], BASE, opinion) == {
        "floor": {"mean": 0.02, "max": 0.02},
        "deviation": {"mean": 0.1, "max": 0.1},
        "limit": 0.11,
    }


@pytest.mark.parametrize("apart", [0.12, nan], ids=["further", "NaN"])
def test_an_adapter_that_peft_computes_otherwise_is_refused_with_the_numbers(apart: float) -> None:
    opinion = ReferenceScores(base=[[-1.02, -2.02], [-3.02]], adapter=[[-4.0 - apart, -5.0 - apart], [-6.0 - apart]])
    with pytest.raises(
        AdapterRefused, match=r"otherwise than PEFT computes it.*base model by 0\.0200.*at most 0\.1100"
    ):
        compare([[-4.0, -5.0], [-6.0]], BASE, opinion)
