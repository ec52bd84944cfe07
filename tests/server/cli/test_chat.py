"""`patchbay chat` against a running server; the fake engine answers with the name of what serves, a word a token."""

from __future__ import annotations

from functools import partial

from adapters.names import FineTunedName
from tests.server.cli.conftest import Patchbay, Running
from tests.until import Until


def test_one_message_prints_the_answer_alone(call: Patchbay) -> None:
    result = call("chat", "sql", "-m", "hello", "--max-tokens", "3")
    assert result.exit_code == 0
    assert result.stdout == "sql@1 sql@1 sql@1 \n"
    assert result.stderr == ""


def test_two_sides_answer_one_after_the_other_under_the_version_that_answered(call: Patchbay) -> None:
    result = call("chat", "sql", "--vs", "json@stable", "-m", "hello")
    assert result.stdout == "[sql@1]\nsql@1 \n[json@1]\njson@1 \n"


def test_a_fine_tuned_model_can_be_asked(call: Patchbay, server: Running) -> None:
    name = FineTunedName("ft:base:patchbay:sql:abc:ckpt-step-88")
    server.portal.call(partial(server.state.registry.name_result, "sql", 1, name, report={}))
    assert call("chat", name.text, "--vs", "json", "-m", "hello").stdout == "[sql@1]\nsql@1 \n[json@1]\njson@1 \n"


def test_the_base_model_can_be_asked_and_compared(call: Patchbay) -> None:
    assert call("chat", "base", "--vs", "sql", "-m", "hello").stdout == "[base]\nbase \n[sql@1]\nsql@1 \n"


def test_a_conversation_goes_on_until_a_blank_line(call: Patchbay) -> None:
    result = call("chat", "sql", input="hello\nagain\n\nnever read\n")
    assert result.exit_code == 0
    assert result.stdout == "sql@1 \nsql@1 \n"
    assert result.stderr.count("[sql@1]") == 2


def test_a_conversation_ends_with_its_input(call: Patchbay) -> None:
    assert call("chat", "sql", input="hello\n").exit_code == 0


def test_a_refused_message_does_not_end_the_conversation(call: Patchbay) -> None:
    result = call("chat", "nobody", "--vs", "sql", input="hello\nagain\n")
    assert result.exit_code == 0
    assert result.stderr.count("error: ") == 2


def test_an_unknown_model_exits_with_4(call: Patchbay) -> None:
    result = call("chat", "nobody", "-m", "hello")
    assert result.exit_code == 4
    assert "`nobody` does not exist" in result.stderr


def test_an_engine_that_dies_while_answering_is_an_error(call: Patchbay, server: Running, until: Until) -> None:
    server.builder.knobs.token_s = 0.01
    server.portal.start_task_soon(_die_when_asked, server, until)
    result = call("chat", "sql", "-m", "hello", "--max-tokens", "100000")
    assert result.exit_code == 1
    assert "error: " in result.stderr


async def _die_when_asked(server: Running, until: Until) -> None:
    residency = server.state.engine.serving().residency
    await until(lambda: any(view.leases for view in residency.entries()))
    server.builder.engines[-1].die()
