"""``patchbay usage`` and ``patchbay limits`` against a server."""

from __future__ import annotations

import json

import httpx

from tests.server.cli.conftest import Patchbay, Running
from tests.until import until


def test_usage_is_a_table_json_or_csv(server: Running, call: Patchbay) -> None:
    body = {"model": "sql", "messages": [{"role": "user", "content": "hello"}]}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=body).status_code == 200
    server.portal.call(until, lambda: not server.state.admission.in_flight)
    assert "sql" in call("usage").stdout.splitlines()[1]
    (row,) = json.loads(call("usage", "--json").stdout)["data"]
    assert (row["adapter"], row["requests"]) == ("sql", 1)
    header, line = call("usage", "--csv", "--adapter", "sql").stdout.splitlines()
    assert header.startswith("day,key_id,project,adapter,requests")
    assert line.split(",")[3:5] == ["sql", "1"]


def test_limits_are_set_listed_and_removed(call: Patchbay) -> None:
    result = call("limits", "set", "project", "team", "requests_per_minute=60", "tokens_per_minute=none")
    assert json.loads(result.stdout)["requests_per_minute"] == 60
    assert call("limits", "list").stdout.splitlines()[1].split() == ["project", "team", "requests_per_minute=60"]
    assert call("limits", "remove", "project", "team").exit_code == 0
    assert len(call("limits", "list").stdout.splitlines()) == 1


def test_a_limit_that_is_no_number_is_refused(call: Patchbay) -> None:
    result = call("limits", "set", "project", "team", "requests_per_minute=many")
    assert result.exit_code == 2
    assert "requests_per_minute=60" in result.stderr
