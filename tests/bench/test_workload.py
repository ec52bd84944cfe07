"""Requests have the distribution of their options, and are the same for every server."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from bench.workload import FIRST_TOKEN, Lengths, Popularity, Workload


def workload(popularity: str = "zipf", prompt: str = "8", answer: str = "4", models: int = 4) -> Workload:
    names = [f"a{number}" for number in range(models)]
    lengths = {"prompt": Lengths.parse(prompt), "answer": Lengths.parse(answer)}
    return Workload(names, popularity=Popularity.parse(popularity), **lengths, vocabulary=4096)


def test_the_same_seed_asks_the_same_and_another_one_does_not() -> None:
    assert workload().requests(50, seed=1, rate=2) == workload().requests(50, seed=1, rate=2)
    assert workload().requests(50, seed=1) != workload().requests(50, seed=2)


def test_by_zipf_the_second_adapter_is_asked_half_as_often_as_the_first_and_the_third_a_third() -> None:
    asked = Counter(request.model for request in workload(models=3).requests(11_000, seed=0))
    assert [asked[name] / asked["a0"] for name in ("a1", "a2")] == pytest.approx([1 / 2, 1 / 3], abs=0.03)


def test_an_exponent_makes_the_first_adapter_more_popular() -> None:
    flat, steep = (Popularity.parse(text).shares(100) for text in ("zipf:0.5", "zipf:1.5"))
    assert steep[0] > flat[0]
    assert sum(steep) == pytest.approx(1)


def test_uniform_asks_all_equally() -> None:
    asked = Counter(request.model for request in workload("uniform").requests(8000, seed=0))
    assert [asked[name] / 8000 for name in sorted(asked)] == pytest.approx([0.25] * 4, abs=0.02)


def test_arrivals_are_a_poisson_process() -> None:
    times = np.array([request.at_s for request in workload().requests(20_000, seed=0, rate=50)])
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # exponential
    counts = np.bincount(times.astype(int))[:-1]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.2)


def test_requests_without_end_differ_from_each_other() -> None:
    requests = list(islice(workload().endless(seed=0), 20))
    assert len({request.prompt for request in requests}) == 20


def test_without_a_rate_all_may_be_sent_at_once() -> None:
    assert {request.at_s for request in workload().requests(10, seed=0)} == {0}


def test_lengths_are_exact_uniform_or_lognormal_around_their_median() -> None:
    def drawn(text: str) -> list[int]:
        return [len(request.prompt) for request in workload(prompt=text).requests(2000, seed=0)]

    assert set(drawn("64")) == {64}
    assert (min(drawn("4-9")), max(drawn("4-9"))) == (4, 9)
    skewed = drawn("64~0.5")
    assert np.median(skewed) == pytest.approx(64, rel=0.05)
    assert np.mean(skewed) > np.median(skewed)


def test_prompts_are_ordinary_tokens_of_the_base() -> None:
    tokens = {token for request in workload(prompt="64").requests(200, seed=0) for token in request.prompt}
    assert min(tokens) >= FIRST_TOKEN
    assert max(tokens) < 4096


@pytest.mark.parametrize("text", ["", "0", "9-4", "64~", "many"])
def test_what_is_no_distribution_of_lengths_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no distribution"):
        Lengths.parse(text)


@pytest.mark.parametrize("text", ["", "zipf:", "normal"])
def test_what_is_no_popularity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no popularity"):
        Popularity.parse(text)
