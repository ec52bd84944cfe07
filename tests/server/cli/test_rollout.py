"""`patchbay rollout` against a running server."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import httpx
import pytest

from tests.server.cli.conftest import Patchbay, Running
from tests.server.opened import MakeAdapter

ROLLOUTS = Path(__file__).parents[3] / "docs" / "rollouts.md"


@pytest.fixture(autouse=True)
def second_version(server: Running, make_adapter: MakeAdapter) -> None:
    files = make_adapter(9).multipart()
    assert httpx.post(f"{server.url}/v1/adapters/sql/versions", files=files).status_code == 201


def test_a_rollout_is_set_shown_changed_and_promoted(call: Patchbay) -> None:
    options = ["--weight", "5", "--sticky", "user", "--guard", "error_rate=0.1", "--min-requests", "20"]
    begun = call("rollout", "set", "sql", "2", *options)
    assert begun.exit_code == 0, begun.stderr
    assert "5 %" in begun.stdout
    assert "shadow" in begun.stdout
    shown = json.loads(call("rollout", "show", "sql", "--json").stdout)
    assert (shown["state"], shown["candidate"], shown["weight"], shown["sticky"]) == ("active", 2, 5, "user")
    assert shown["guards"] == [{"type": "error_rate", "min_requests": 20, "max_increase": 0.1}]
    assert "error_rate=0.1" in call("rollout", "show", "sql").stdout
    changed = json.loads(call("rollout", "set", "sql", "2", "--steps", "10,100", "--json").stdout)
    assert (changed["id"], changed["weight"], changed["steps"]) == (shown["id"], 10, [10, 100])
    assert call("rollout", "promote", "sql", "--generation", "1").exit_code == 1
    assert "sql@stable is version 2" in call("rollout", "promote", "sql").stderr
    assert "promoted" in call("rollout", "show", "sql").stdout


def test_a_rollout_is_rolled_back_or_ended(call: Patchbay) -> None:
    call("rollout", "set", "sql", "2", "--shadow", "10")
    assert "sql@stable stays version 1" in call("rollout", "rollback", "sql").stderr
    assert call("rollout", "rm", "sql").exit_code == 4
    call("rollout", "set", "sql", "2", "--weight", "1")
    assert "ended rollout-2" in call("rollout", "rm", "sql").stderr


def test_a_score_guard_is_written_as_json(call: Patchbay) -> None:
    grader = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "SELECT", "operation": "like"}
    guard = json.dumps({"type": "score", "grader": grader, "max_decrease": 0.2})
    assert call("rollout", "set", "sql", "2", "--weight", "1", "--guard", guard).exit_code == 0
    assert json.loads(call("rollout", "show", "sql", "--json").stdout)["guards"][0]["grader"] == grader


@pytest.mark.parametrize(
    "option",
    [("--guard", "speed=2"), ("--guard", "latency=fast"), ("--guard", "{"), ("--steps", "1,ten")],
)
def test_a_malformed_option_is_a_usage_error(patchbay: Patchbay, option: tuple[str, str]) -> None:
    result = patchbay("rollout", "set", "sql", "2", *option)
    assert result.exit_code == 2
    assert option[0] in result.stderr


def test_the_command_of_the_page_does_what_it_says(call: Patchbay) -> None:
    block = re.search(r"```bash\n(patchbay .*)\n```", ROLLOUTS.read_text())
    assert block is not None
    assert call(*shlex.split(block[1])[1:]).exit_code == 0
    shown = json.loads(call("rollout", "show", "sql", "--json").stdout)
    assert (shown["weight"], [guard["type"] for guard in shown["guards"]]) == (5, ["error_rate", "latency"])


def test_an_alias_demands_a_verdict_and_is_forced(call: Patchbay) -> None:
    assert call("adapters", "alias", "sql", "stable=1", "--require", "better").exit_code == 0
    refused = call("adapters", "alias", "sql", "stable=2")
    assert (refused.exit_code, "demands the verdict 'better'" in refused.stderr) == (1, True)
    assert call("adapters", "promote", "sql", "2", "--force").exit_code == 0
