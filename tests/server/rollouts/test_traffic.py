"""What rollouts see of live traffic, in bounded memory; the text and the agreement of answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from adapters.rollout import WHOLE, RolloutPlan, RolloutSide
from server.rollouts import traffic as traffic_module
from server.rollouts.answers import COMPARED, agreement, text_of
from server.rollouts.traffic import WAITING, RolloutTraffic, Trial
from tests.adapters.test_rollout import ROLLOUT

CHAT = "/v1/chat/completions"
SHADOWED = replace(ROLLOUT, plan=RolloutPlan(shadow=WHOLE))


def ended(traffic: RolloutTraffic, trial: Trial, answer: bytes = b"{}") -> None:
    trial.keep(answer)
    traffic.ended(trial, path=CHAT, content=b"{}", took_s=1.0, is_deferred=False)


def test_the_candidate_answers_nothing_before_it_is_resident() -> None:
    traffic = RolloutTraffic(draw=lambda: 0.0)
    assert traffic.begin(ROLLOUT, None, CHAT).version == 1
    traffic.ready.add(ROLLOUT.id)
    assert traffic.begin(ROLLOUT, None, CHAT).version == 2


def test_answers_beyond_the_queue_are_dropped_and_counted() -> None:
    traffic = RolloutTraffic(ready={ROLLOUT.id}, draw=lambda: 0.5)
    for _ in range(WAITING + 3):
        ended(traffic, traffic.begin(SHADOWED, None, CHAT))
    assert traffic.to_shadow.qsize() == WAITING
    assert traffic.tallies[ROLLOUT.id, RolloutSide.SHADOW]["dropped"] == 3
    assert traffic.tallies[ROLLOUT.id, RolloutSide.CURRENT].requests == WAITING + 3


def test_the_bytes_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_module, "MAX_WAITING_BYTES", 250)
    traffic = RolloutTraffic(ready={ROLLOUT.id}, draw=lambda: 0.5)
    for _ in range(4):
        ended(traffic, traffic.begin(SHADOWED, None, CHAT), b"x" * 100)
    assert (traffic.to_shadow.qsize(), traffic.waiting_bytes) == (2, 204)


def test_an_answer_that_is_too_long_is_not_kept() -> None:
    traffic = RolloutTraffic(ready={ROLLOUT.id}, draw=lambda: 0.5)
    ended(traffic, traffic.begin(SHADOWED, None, CHAT), b"x" * (traffic_module.MAX_ANSWER_BYTES + 1))
    assert traffic.to_shadow.empty()


def test_an_answer_that_nothing_reads_is_not_kept() -> None:
    traffic = RolloutTraffic(ready={ROLLOUT.id}, draw=lambda: 0.5)
    assert traffic.begin(ROLLOUT, None, CHAT).answer is None
    assert traffic.begin(SHADOWED, None, "/v1/embeddings").answer is None


def event(**choice: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (json.dumps({"choices": [{"index": 0, "message": {"content": "hi"}}]}).encode(), "hi"),
        (json.dumps({"choices": [{"index": 0, "text": "hi"}]}).encode(), "hi"),
        (event(delta={"role": "assistant"}) + event(delta={"content": "h"}) + event(delta={"content": "i"})
         + b'data: {"choices": [], "usage": {}}\n\ndata: [DONE]\n\n', "hi"),
        (event(text="h") + event(text="i") + b"data: [DONE]\n\n", "hi"),
        (json.dumps({"choices": [{"index": 0, "message": {"content": None, "tool_calls": []}}]}).encode(), None),
        (b'{"error": {}}', None),
        (b"", None),
        (b"data: {\n\n", None),
    ],
)  # fmt: skip
def test_the_text_of_an_answer_is_that_of_its_first_choice(answer: bytes, text: str | None) -> None:
    assert text_of(answer) == text


def test_agreement_is_the_share_of_common_tokens() -> None:
    def encode(text: str) -> list[int]:
        return [len(word) for word in text.split()]

    assert agreement("a b", "a b", encode) == 1
    assert agreement("a bb ccc dddd", "a bb ccc", encode) == pytest.approx(6 / 7)
    assert agreement("a", "bb", encode) == 0


def test_the_agreement_of_long_texts_costs_no_more_than_that_of_their_beginnings() -> None:
    longest: list[int] = []

    def encode(text: str) -> list[int]:
        longest.append(len(text))
        return [ord(each) for each in text[:10]]

    assert agreement("a" * 200_000, "a" * 200_001, encode) == 1
    assert longest == [COMPARED, COMPARED]
