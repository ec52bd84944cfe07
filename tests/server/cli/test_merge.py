"""`patchbay adapters merge` against a running server."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.server.cli.conftest import Patchbay, Running


def test_a_merge_is_published_and_shown_in_a_line(call: Patchbay, server: Running) -> None:
    result = call("adapters", "merge", "blend", "sql@1:0.5", "json:-0.25", "--alias", "canary")
    assert result.exit_code == 0
    assert result.stdout.startswith("blend@1: rank 16, ")
    assert result.stdout.rstrip().endswith("aliases: canary, stable")
    version = httpx.get(f"{server.url}/v1/adapters/blend/versions/1").json()
    assert version["source"] == "merge:linear(sql@1*0.5, json@1*-0.25)"


def test_a_cut_says_what_it_lost(call: Patchbay) -> None:
    result = call("adapters", "merge", "blend", "sql:1", "json:1", "--compress-to", "8")
    assert result.stdout.startswith("blend@1: rank 8, ")
    assert "reduced from rank 16" in result.stderr


def test_json_is_what_the_server_sends(call: Patchbay, server: Running) -> None:
    result = call("adapters", "merge", "blend", "sql:1", "--json")
    assert json.loads(result.stdout) == httpx.get(f"{server.url}/v1/adapters/blend/versions/1").json()


@pytest.mark.parametrize("part", ["sql", "sql@1", "sql:", "sql:half", "sql:nan", "sql:inf", "sql:1_0", "sql:١"])
def test_a_part_without_a_weight_is_a_usage_error(patchbay: Patchbay, part: str) -> None:
    result = patchbay("adapters", "merge", "blend", part)
    assert result.exit_code == 2
    assert "REF:WEIGHT" in result.stderr


def test_what_the_server_refuses_is_printed(call: Patchbay) -> None:
    result = call("adapters", "merge", "blend", "sql:1", "--density", "0.5")
    assert (result.exit_code, "only ties and dare have a density" in result.stderr) == (1, True)
    result = call("adapters", "merge", "blend", "sql:1", "sql:1", "json:1")
    assert (result.exit_code, "compress_to 16" in result.stderr) == (1, True)
    assert call("adapters", "merge", "blend", "poet:1").exit_code == 4
