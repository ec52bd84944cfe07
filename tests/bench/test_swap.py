"""An answer counts as stale if its version was replaced before the request was sent."""

from __future__ import annotations

import pytest

from bench.load import StreamedAnswer
from bench.scenarios.swap import Move, first, verdict
from bench.workload import LoadRequest

TELLING = {1: "SELEC", 2: '{"cus'}
MOVES = [Move(2, 1.0, 1.2), Move(3, 2.0, 2.2)]


def answer(
    version: int, sent_s: float, first_s: float, text: str | None = None, failure: str | None = None
) -> StreamedAnswer:
    content = TELLING[2 - version % 2] if text is None else text
    return StreamedAnswer(
        LoadRequest(0, "moved", "q", 8), sent_s, (first_s,), 8, f"moved@{version}", f"{content}…", failure
    )


@pytest.mark.parametrize(
    ("version", "sent_s", "first_s"),
    [
        (1, 0.5, 0.6),  # before the first move
        (1, 1.1, 1.3),  # sent before the move was acknowledged
        (2, 0.9, 1.1),  # answered when the move was on its way
        (2, 1.3, 1.4),
        (2, 2.1, 2.5),
        (3, 2.3, 2.4),
        (3, 9.0, 9.1),
    ],
)
def test_an_answer_by_a_version_that_the_alias_had_meanwhile_is_right(
    version: int, sent_s: float, first_s: float
) -> None:
    assert verdict(answer(version, sent_s, first_s), MOVES, TELLING) == "right"


@pytest.mark.parametrize(("version", "sent_s", "first_s"), [(1, 1.3, 1.4), (2, 2.3, 2.4), (1, 9.0, 9.1)])
def test_an_answer_by_a_version_that_was_replaced_before_it_was_asked_is_stale(
    version: int, sent_s: float, first_s: float
) -> None:
    assert verdict(answer(version, sent_s, first_s), MOVES, TELLING) == "stale"


def test_an_answer_by_a_version_that_the_alias_had_not_reached_is_not_right() -> None:
    assert verdict(answer(3, 0.1, 0.2), MOVES, TELLING) == "stale"


def test_the_text_is_believed_more_than_the_name() -> None:
    assert verdict(answer(2, 1.3, 1.4, text=TELLING[1]), MOVES, TELLING) == "not of the version it says"


def test_a_failure_is_a_failure() -> None:
    assert verdict(answer(2, 1.3, 1.4, failure="broken off"), MOVES, TELLING) == "failed"


def test_the_first_token_of_a_version_may_arrive_at_any_client() -> None:
    assert first([answer(2, 1.5, 1.9), answer(2, 1.6, 1.8), answer(1, 0.1, 0.2)], MOVES[0]) == 1.8
