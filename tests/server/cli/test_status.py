"""`patchbay status`: what runs, what is loaded, what waits, what trains."""

from __future__ import annotations

import json
from importlib import metadata

from tests.server.cli.conftest import ADAPTERS, Patchbay, Running


def fields(shown: str) -> dict[str, str]:
    """The lines of the status, by their first column."""
    rows = [line.split("  ", 1) for line in shown.splitlines()]
    return {name.strip(): value.strip() for name, value in rows}


def test_the_status_has_ten_lines_at_most(call: Patchbay, server: Running) -> None:
    shown = call("status")
    assert shown.exit_code == 0
    assert len(shown.stdout.splitlines()) <= 10
    status = fields(shown.stdout)
    assert status["server"].startswith("patchbay ")
    assert f"at {server.url}, up " in status["server"]
    assert (status["engine"], status["base model"], status["adapters"]) == ("ready", "base", str(len(ADAPTERS)))
    assert status["slots"] == "0 of 4 in use"
    assert status["requests"] == "0 in flight; 0 generations wait for a turn"
    assert status["jobs"] == "none"


def test_residents_are_named_with_the_last_used_first(call: Patchbay, server: Running) -> None:
    for name in ("sql", "json"):
        assert call("chat", name, "-m", "hi").exit_code == 0
    assert fields(call("status").stdout)["residents"] == "3 of 64: json@1, sql@1, sentiment@1"


def test_jobs_that_have_not_ended_are_named_by_their_state(call: Patchbay, file_id: str) -> None:
    assert call("train", file_id, "--name", "tickets").exit_code == 0
    status = json.loads(call("status", "--json").stdout)
    (job,) = status["jobs"]
    assert job["adapter"] == "tickets"
    lines = {name: line for name, line in fields(call("status").stdout).items() if name.startswith("jobs ")}
    assert list(lines.values()) == [f"1: {job['id']} (tickets)"]
    assert lines.keys() <= {"jobs validating_files", "jobs queued"}  # its files may have been checked meanwhile
    assert job["status"] in {"validating_files", "queued"}


def test_without_an_engine_the_status_still_answers(call: Patchbay, server: Running) -> None:
    server.builder.knobs.start_failures = 100
    server.portal.call(_die, server)
    status = fields(call("status").stdout)
    assert status["engine"] == "rebuilding"
    assert status["slots"] == "-"


async def _die(server: Running) -> None:
    server.builder.engines[-1].die()


def test_the_version_is_that_of_the_package(patchbay: Patchbay) -> None:
    shown = patchbay("--version")
    assert (shown.exit_code, shown.stdout) == (0, f"patchbay {metadata.version('patchbay')}\n")
