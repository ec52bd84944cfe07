"""What is made of the body of an inference request before the engine reads it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.fake import FakeBuilder, Knobs
from server.errors import InvalidRequest
from server.gateway.inference_routes import INFERENCE_ROUTES
from server.gateway.request_body import NAMED_BY_NONE, OUTPUT_LIMITS, RETIRED, prepare_body
from server.gateway.request_bounds import RequestBounds
from tests.server.opened import BASE, CHAT, Opened, Opening

CONTEXT = 2048
MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "paint", "parameters": {"type": "object"}}}
ANSWERED = sorted(INFERENCE_ROUTES.keys() - NAMED_BY_NONE)


def prepared(body: dict[str, Any], path: str = CHAT, *, takes_tools: bool = True) -> dict[str, Any]:
    """Return ``body`` as it was made fit for the engine."""
    copied = copy.deepcopy(body)
    prepare_body(path, copied, base="base", context=CONTEXT, takes_tools=takes_tools, bounds=RequestBounds())
    return copied


def refusal(body: dict[str, Any], path: str = CHAT) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        prepared(body, path)
    return refused.value


@pytest.mark.parametrize("path", ANSWERED)
@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": ""}, {"modle": "sql"}])
def test_a_request_for_no_model_is_refused_with_the_names_to_choose_from(path: str, body: dict[str, Any]) -> None:
    refused = refusal(body, path)
    assert refused.param == "model"
    assert "'base'" in refused.message
    assert "/v1/models" in refused.message


@pytest.mark.parametrize("path", sorted(NAMED_BY_NONE))
def test_tokens_are_counted_for_no_model_in_particular(path: str) -> None:
    assert prepared({"prompt": "hello"}, path) == {"prompt": "hello"}


@pytest.mark.parametrize("field", RETIRED)
def test_a_field_that_is_read_no_more_is_refused_by_what_is_read_today(field: str) -> None:
    refused = refusal({"model": "sql", field: {"type": "object"}})
    assert refused.param == field
    assert RETIRED[field] in refused.message
    assert prepared({"model": "sql", field: None}) == {"model": "sql", field: None}


def test_all_faults_are_named_at_once() -> None:
    message = refusal({"guided_json": {}, "guided_regex": "a", "functions": []}).message
    assert all(part in message for part in ("guided_json", "guided_regex", "functions", "model:"))


@pytest.mark.parametrize("choice", [{}, {"tool_choice": "auto"}, {"tool_choice": "none"}, {"tool_choice": None}])
@pytest.mark.parametrize("tools", [{"tools": []}, {"tools": None}, {}])
def test_no_tools_are_as_if_nothing_was_said_about_tools(tools: dict[str, Any], choice: dict[str, Any]) -> None:
    left = prepared({"model": "sql", **tools, **choice})
    assert left == {"model": "sql"} or left == {"model": "sql", "tool_choice": None}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "paint"}}, {"type": "any"}])
def test_a_call_that_must_be_made_without_tools_is_left_to_the_engine_to_refuse(choice: Any) -> None:
    assert prepared({"model": "sql", "tools": [], "tool_choice": choice}) == {"model": "sql", "tool_choice": choice}


@pytest.mark.parametrize("choice", ["auto", "none", "required", {"type": "auto"}])
def test_tools_and_their_choice_are_left_alone(choice: Any) -> None:
    body = {"model": "sql", "tools": [TOOL], "tool_choice": choice}
    assert prepared(body) == body


@pytest.mark.parametrize(
    "choice", [{}, {"tool_choice": "auto"}, {"tool_choice": "required"}, {"tool_choice": {"type": "any"}}]
)
def test_tools_whose_calls_nothing_reads_are_refused_by_the_flag_that_is_missing(choice: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="--tool-call-parser") as refused:
        prepared({"model": "sql", "tools": [TOOL], **choice}, takes_tools=False)
    assert refused.value.param == "tools"


@pytest.mark.parametrize("choice", ["none", {"type": "none"}])
def test_tools_that_may_not_be_called_need_no_parser(choice: Any) -> None:
    body = {"model": "sql", "tools": [TOOL], "tool_choice": choice}
    assert prepared(body, takes_tools=False) == body


@pytest.mark.parametrize("tools", [{}, 0, False, "", "[]"])
def test_what_is_no_list_of_tools_is_left_to_the_engine_to_refuse(tools: Any) -> None:
    assert prepared({"model": "sql", "tools": tools}) == {"model": "sql", "tools": tools}


@pytest.mark.parametrize("field", OUTPUT_LIMITS)
@pytest.mark.parametrize("limit", [CONTEXT + 1, 4096, 4096.0, 2**31, 10**30])
def test_a_limit_on_the_output_above_the_context_is_cut_to_the_context(field: str, limit: float) -> None:
    assert prepared({"model": "sql", field: limit}) == {"model": "sql", field: CONTEXT}


@pytest.mark.parametrize("limit", [0, 1, CONTEXT, -1, None, True, "4096", 4096.5, float("inf"), float("nan"), [4096]])
def test_any_other_limit_is_left_to_the_engine(limit: Any) -> None:
    assert repr(prepared({"model": "sql", "max_tokens": limit})) == repr({"model": "sql", "max_tokens": limit})


values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "auto", [], {}, [TOOL], CONTEXT])
)
FIELDS = ["model", "tools", "tool_choice", "messages", *OUTPUT_LIMITS, "guided_json"]


@given(st.dictionaries(st.sampled_from(FIELDS), values, max_size=5))
def test_a_body_of_any_json_is_taken_or_refused_and_what_is_taken_is_taken_again(body: dict[str, Any]) -> None:
    try:
        once = prepared(body)
    except InvalidRequest:
        return
    assert repr(prepared(once)) == repr(once)


async def test_the_gateway_refuses_before_the_engine_answers(opened: Opened) -> None:
    response = await opened.client.post(CHAT, json={"modle": "sql", "messages": MESSAGES})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_request", "model")
    page = opened.state.metrics.page().decode()
    assert 'patchbay_requests_total{adapter="(base)",status="400"} 1.0' in page


async def test_an_adapter_answers_up_to_the_context(opened: Opened) -> None:
    await opened.publish("sql")
    answer = (await opened.chat("sql", max_tokens=10**6, tools=[])).json()["choices"][0]["message"]["content"]
    assert len(answer.split()) == opened.engine.context


async def test_a_base_whose_calls_nothing_reads_takes_no_tools(opening: Opening) -> None:
    builder = FakeBuilder(BASE, knobs=Knobs(takes_tools=False))
    async with opening(builder=builder) as opened:
        response = await opened.chat("base", tools=[TOOL])
        assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")
        assert (await opened.chat("base", tools=[])).status_code == 200
