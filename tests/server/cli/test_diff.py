"""`patchbay adapters diff` against a running server."""

from __future__ import annotations

import json

import httpx

from tests.server.cli.conftest import Patchbay, Running


def test_layers_are_compared_in_a_table_with_the_total_below(call: Patchbay) -> None:
    result = call("adapters", "diff", "sql", "json@1")
    assert result.exit_code == 0
    a, b, apart, *effects, _, header, _, _ = lines = result.stdout.splitlines()
    assert apart.startswith("ANSWERS A to B")
    assert len(effects) == 2
    rows = lines[-2:]
    assert (a.split(), b.split()) == (["A", "sql@1"], ["B", "json@1"])
    assert header.split()[0] == "LAYER"
    assert [row.split()[0] for row in rows] == ["model.layers.0", "all"]
    assert all(0 < float(number) < 2 for row in rows for number in row.split()[1:5])


def test_a_version_and_itself_show_no_distance(call: Patchbay) -> None:
    *_, total = call("adapters", "diff", "sql", "sql@stable").stdout.splitlines()
    assert total.split()[3:] == ["0", "0", "1", "1", "1"]


def test_json_is_what_the_server_sends(call: Patchbay, server: Running) -> None:
    sent = httpx.post(f"{server.url}/v1/adapters/diff", json={"a": "sql", "b": "json"}).json()
    assert json.loads(call("adapters", "diff", "sql", "json", "--json").stdout) == sent


def test_an_unknown_version_is_not_found(call: Patchbay) -> None:
    assert call("adapters", "diff", "sql", "sql@9").exit_code == 4
