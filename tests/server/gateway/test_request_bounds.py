"""What one request may ask for, and that it takes as many places as it has answers."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import Overloaded
from server.gateway import request_bounds
from server.gateway.admission import Admission
from server.gateway.request_bounds import MAX_TOOLS, RequestBounds, generations, regex_states
from tests.server.opened import CHAT, Opened, Opening

BOUNDS = RequestBounds(max_n=4, max_prompts=8, max_generations=16, max_grammar_bytes=1000)
HOSTILE = "(" + "|".join(f"[a-{chr(98 + at % 20)}]{{1,{at + 1}}}" for at in range(300)) + "){1,300}"
TOOL = {"type": "function", "function": {"name": "paint"}}
MESSAGES = [{"role": "user", "content": "hi"}]


def schema(pattern: str) -> dict[str, Any]:
    properties = {"name": {"type": "array", "items": {"type": "string", "pattern": pattern}}}
    return {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": properties}}}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"n": 5}, "n"),
        ({"n": 16384}, "n"),
        ({"n": 5.0}, "n"),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({"prompt": [[5]] * 50_000}, "prompt"),
        ({"messages": [MESSAGES] * 9}, "messages"),
        ({"input": ["a"] * 9}, "input"),
        ({"n": 4, "prompt": ["a"] * 5}, "n"),
        ({"tools": [TOOL] * (MAX_TOOLS + 1)}, "tools"),
        ({"tools": [{**TOOL, "description": "x" * 8000}]}, "tools"),
        ({"structured_outputs": {"regex": "a" * 1001}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "(a{1,200}){1,200}"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"grammar": "a" * 1001}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"json": {"x": "a" * 1001}}}, "structured_outputs.json"),
        ({"structured_outputs": {"choice": ["a" * 1001]}}, "structured_outputs.choice"),
        ({"response_format": schema("a" * 1001)}, "response_format"),
        ({"response_format": schema("(a{1,200}){1,200}")}, "response_format"),
        ({"text": {"format": schema("(a{1,200}){1,200}")}}, "text"),
        ({"output_config": {"format": {"schema": {"pattern": "(a{1,200}){1,200}"}}}}, "output_config"),
        ({"structured_outputs": {"grammar": "root ::= (a{1,200}){1,200}"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"json": '{"pattern": "(a{1,200}){1,200}"}'}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": {"patternProperties": {"(a{1,200}){1,200}": {}}}}}, "structured_outputs.json"),
        (
            {"structured_outputs": {"structural_tag": '[{"schema": {"pattern": "(a{1,200}){1,200}"}}]'}},
            "structured_outputs.structural_tag",
        ),
        ({"tools": [{**TOOL, "parameters": {"pattern": "(a{1,200}){1,200}"}}]}, "tools"),
    ],
)
def test_more_than_is_allowed_is_a_fault_of_its_field(body: dict[str, Any], field: str) -> None:
    ((found, message),) = BOUNDS.faults(body)
    assert found == field
    assert message.startswith(f"{field}: ")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"n": None, "tools": None, "prompt": None, "response_format": None, "structured_outputs": None},
        {"n": True, "prompt": 5, "messages": "x", "tools": "x", "response_format": "x", "structured_outputs": []},
        {"n": 4, "prompt": ["a"] * 4},
        {"prompt": [5] * 4000},
        {"messages": MESSAGES * 4000},
        {"tools": [TOOL] * MAX_TOOLS},
        {"response_format": schema("^[A-Z]{2}[0-9]{1,6}$")},
        {"structured_outputs": {"json": "no JSON", "structural_tag": "[" * 900}},
        {"structured_outputs": {"regex": r"\d{3}-\d{4}(, \d{3}-\d{4}){0,20}"}},
    ],
)
def test_what_people_ask_for_is_no_fault(body: dict[str, Any]) -> None:
    assert dict(BOUNDS.faults(body)) == {}


def test_all_faults_of_a_request_are_named_at_once() -> None:
    assert set(dict(BOUNDS.faults({"n": 9, "tools": [TOOL] * 999, "prompt": ["a"] * 99}))) == {"n", "tools", "prompt"}


def test_the_patterns_and_lengths_of_one_schema_count_together() -> None:
    def fields(*texts: dict[str, Any]) -> list[str]:
        properties = {f"p{number}": {"type": "string", **text} for number, text in enumerate(texts)}
        body = {"structured_outputs": {"json": {"type": "object", "properties": properties}}}
        return [field for field, _ in RequestBounds().faults(body)]

    refused = ["structured_outputs.json"]
    assert fields(*({"maxLength": 10**6 + number} for number in range(20))) == []
    assert fields(*({"maxLength": 10**6 + number} for number in range(21))) == refused
    assert fields(*({"minLength": -(10**9), "maxLength": 1e6 + number} for number in range(21))) == refused
    assert fields(*({"maxLength": 10**6, "minLength": 1} for _ in range(500))) == []
    assert fields(*({"maxLength": number} for number in range(150))) == []
    assert fields(*({"pattern": f"[a-z]{{{number}}}"} for number in range(900, 910))) == []
    assert fields(*({"pattern": f"[a-z]{{{number}}}"} for number in range(900, 930))) == refused


@pytest.mark.parametrize(
    ("pattern", "states"),
    [("", 0), ("abc", 3), ("a{3}", 3), ("(ab){2,5}", 10), ("(a{10}b){10}", 110), (r"\{5}", 3), ("[{}]{2}", 2)],
)
def test_repetitions_are_counted_as_if_written_out(pattern: str, states: int) -> None:
    assert regex_states(pattern) == states


@pytest.mark.parametrize("end", ["", r"\]"])
def test_a_text_of_open_brackets_is_read_to_its_end_once(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = Mock(wraps=request_bounds._SET)
    monkeypatch.setattr(request_bounds, "_SET", pattern)
    assert regex_states("[a" * 500 + end) >= 1000
    assert pattern.match.call_count == 1


def test_a_short_pattern_that_stands_for_millions_is_seen() -> None:
    assert regex_states(HOSTILE) > 10**7


@given(st.text("ab(){}[]\\,0123456789|", max_size=60))
def test_any_text_is_counted(pattern: str) -> None:
    assert regex_states(pattern) >= 0


@given(
    st.dictionaries(
        st.sampled_from(["n", "prompt", "messages", "input", "tools", "text"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=6,
        ),
    )
)
def test_any_body_is_counted(body: dict[str, Any]) -> None:
    assert generations(body) >= 1
    assert all(message for _, message in BOUNDS.faults(body))


def test_a_request_takes_as_many_places_as_it_has_answers() -> None:
    admission = Admission(10)
    with admission.admitted():
        narrow = admission.widen(8)
        assert admission.in_flight == 8
        with admission.admitted(), pytest.raises(Overloaded, match="ask for fewer answers"):
            admission.widen(3)
        narrow()
        assert admission.in_flight == 1
    assert admission.in_flight == 0


def test_answers_count_for_the_share_of_an_adapter() -> None:
    admission = Admission(16)
    with admission.admitted():
        admission.widen(12)
        leave = admission.enter("sql", 12)
        with admission.admitted(), pytest.raises(Overloaded, match="for 'sql'"):
            admission.enter("sql")
        leave()


async def test_too_many_answers_are_refused_and_give_their_places_back(opening: Opening) -> None:
    async with opening(max_in_flight=8) as opened:

        async def ask(n: int) -> tuple[int, Any]:
            body = {"model": "base", "messages": MESSAGES, "n": n}
            response = await opened.client.post(CHAT, json=body)
            return response.status_code, response.json().get("error", {}).get("param")

        assert await ask(65) == (400, "n")
        assert await ask(4) == (200, None)
        assert opened.state.admission.in_flight == 0


async def test_a_line_of_a_batch_has_the_same_bounds(opened: Opened) -> None:
    body = {"model": "base", "messages": MESSAGES, "n": 65}
    assert (await opened.client.post(CHAT, json=body)).status_code == 400
