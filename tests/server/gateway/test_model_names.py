"""What a request's ``model`` gets: its version, or a refusal; the base only when it was named."""

from __future__ import annotations

import pytest

from adapters.names import FineTunedName
from server.operations.aliases import move_alias
from tests.server.opened import Opened

MALFORMED = [
    "sql@",
    "@stable",
    "sql@@1",
    "sql@0",
    "sql@01",
    "../sql",
    "sql/1",
    "sql ",
    " ",
    "süß",
    "a" * 97,
    "sql@" + "9" * 11,
    "sql\n",
    "ft:",
    "ft:base:patchbay:sql",
    "ft:base:patchbay::job ",
]

RESULT = FineTunedName("ft:Qwen/Qwen3-8B:patchbay::abc")


async def test_an_adapter_answers_by_name_alias_and_version(opened: Opened) -> None:
    await opened.publish("sql")
    await opened.publish("sql", 2, alias="canary")
    assert await opened.answer("sql") == "sql@1"
    assert await opened.answer("sql@stable") == "sql@1"
    assert await opened.answer("sql@canary") == "sql@2"
    assert await opened.answer("sql@2") == "sql@2"
    assert await opened.answer("base") == "base"


async def test_a_fine_tuned_name_is_answered_by_its_version_wherever_the_aliases_move(opened: Opened) -> None:
    for seed in (1, 2):
        await opened.publish("sql", seed)
    await opened.state.registry.name_result("sql", 2, RESULT, report={})
    assert await opened.answer("sql") == await opened.answer(RESULT.text) == "sql@2"
    await move_alias(opened.state, "sql", "stable", 1)
    assert await opened.answer(RESULT.text) == "sql@2"


async def test_a_fine_tuned_name_that_was_never_given_or_deleted_is_an_unknown_model(opened: Opened) -> None:
    await opened.publish("sql")
    await opened.state.registry.name_result("sql", 1, RESULT, report={})
    await opened.state.registry.delete_version("sql", 1, with_aliases=True)
    for model in (RESULT.text, "ft:base:patchbay::other"):
        response = await opened.chat(model)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_the_response_names_the_version_that_answered(opened: Opened) -> None:
    published = await opened.publish("sql")
    response = await opened.chat("sql")
    assert response.json()["model"] == "sql@1"
    assert response.headers["x-patchbay-adapter"] == "sql@1"
    assert response.headers["x-patchbay-digest"] == published["digest"]


async def test_an_answer_of_the_base_carries_no_adapter(opened: Opened) -> None:
    response = await opened.chat("base")
    assert "x-patchbay-adapter" not in response.headers
    assert "x-patchbay-digest" not in response.headers


async def test_an_unknown_model_is_openai_s_404_and_never_the_base(opened: Opened) -> None:
    response = await opened.chat("nobody")
    assert response.status_code == 404
    error = response.json()["error"]
    assert set(response.json()) == {"error"}
    assert (error["code"], error["type"], error["param"]) == ("model_not_found", "not_found_error", "model")
    assert "The model `nobody` does not exist" in error["message"]
    assert "`base`" in error["message"]


@pytest.mark.parametrize("model", MALFORMED)
async def test_a_malformed_name_is_an_unknown_model(opened: Opened, model: str) -> None:
    await opened.publish("sql")
    response = await opened.chat(model)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("model", "code"), [("sql@7", "version_not_found"), ("sql@beta", "alias_not_found")])
async def test_an_unknown_version_or_alias_says_what_exists(opened: Opened, model: str, code: str) -> None:
    await opened.publish("sql")
    response = await opened.chat(model)
    assert (response.status_code, response.json()["error"]["code"]) == (404, code)
    assert "its versions: 1" in response.json()["error"]["message"]


async def test_an_unknown_model_is_refused_alike_in_a_stream(opened: Opened) -> None:
    response = await opened.chat("nobody", stream=True)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
