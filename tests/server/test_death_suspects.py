"""What the engine was doing when it died: guilty at the second death, forgotten after a while."""

from __future__ import annotations

from typing import Any, cast

import pytest

from server.death_suspects import MOST, WINDOW_S, DeathSuspects
from server.engine.protocol import Engine


class Dead:
    """Stands for an engine; only its identity counts."""


def engine() -> Engine:
    return cast("Engine", Dead())


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def suspects(now: list[float]) -> DeathSuspects:
    return DeathSuspects(clock=lambda: now[0])


def test_two_deaths_make_a_suspect_guilty(suspects: DeathSuspects) -> None:
    first, second = engine(), engine()
    assert not suspects
    assert [suspects.note("a", first), suspects.note("a", second)] == [False, True]
    assert (suspects.is_guilty("a"), suspects.is_guilty("b"), bool(suspects)) == (True, False, True)


def test_what_was_done_to_its_end_between_two_deaths_is_not_suspected(suspects: DeathSuspects) -> None:
    first, second, third = engine(), engine(), engine()
    suspects.note("popular", first)
    suspects.acquit("popular")
    suspects.acquit("never noted")
    assert not suspects.note("popular", second)
    assert suspects.note("popular", third)


def test_one_death_counts_once_however_often_it_is_noted(suspects: DeathSuspects) -> None:
    first: Any = engine()
    assert not any(suspects.note("a", first) for _ in range(3))


def test_a_suspect_is_forgotten_some_minutes_after_the_last_death(suspects: DeathSuspects, now: list[float]) -> None:
    first, second, third = engine(), engine(), engine()
    suspects.note("a", first)
    now[0] = WINDOW_S + 1
    assert not suspects.note("a", second)
    assert suspects.note("a", third)
    now[0] = 2 * WINDOW_S + 3
    assert not suspects.is_guilty("a")
    assert not suspects


def test_the_oldest_suspects_make_place_for_new_ones(suspects: DeathSuspects) -> None:
    first, second = engine(), engine()
    for number in range(MOST + 1):
        suspects.note(str(number), first)
    assert [suspects.note(text, second) for text in ("0", str(MOST))] == [False, True]


def test_nothing_is_suspected_once_all_is_forgotten(suspects: DeathSuspects, now: list[float]) -> None:
    suspects.note("a", engine())
    now[0] = WINDOW_S + 1
    assert not suspects
