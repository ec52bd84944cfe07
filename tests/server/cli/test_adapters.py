"""`patchbay adapters` against a running server."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import httpx
import pytest

from adapters.names import FineTunedName
from adapters.publish_options import PublishOptions
from adapters.sources.directory import DirectorySource
from adapters.storage.manifest import FILES
from tests.server.cli.conftest import Patchbay, Running


@pytest.fixture
def pushed(call: Patchbay, adapter: Path) -> Path:
    """``sql`` has a second version; `stable` is still the first."""
    assert call("adapters", "push", str(adapter), "--name", "sql").exit_code == 0
    return adapter


@pytest.fixture
def result(server: Running) -> str:
    """The fine-tuned name of ``sql``'s only version; its base has a slash."""
    name = FineTunedName("ft:Qwen/Qwen3-8B:patchbay:sql:abc")
    server.portal.call(partial(server.state.registry.name_result, "sql", 1, name, report={"loss": 1}))
    return name.text


def stable_of(server: Running, name: str) -> int:
    return httpx.get(f"{server.url}/v1/adapters/{name}").json()["aliases"]["stable"]


def test_list_shows_each_adapter_with_its_aliases(call: Patchbay) -> None:
    result = call("adapters", "list")
    assert result.exit_code == 0
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["NAME", "ALIASES", "LATEST", "VERSIONS", "CREATED"]
    assert [line.split()[:4] for line in lines] == [[n, "stable=1", "1", "1"] for n in ("json", "sentiment", "sql")]


def test_json_listings_are_what_the_server_sends(call: Patchbay, server: Running) -> None:
    result = call("adapters", "list", "--json")
    assert json.loads(result.stdout) == httpx.get(f"{server.url}/v1/adapters").json()
    result = call("adapters", "show", "sql@stable", "--json")
    assert json.loads(result.stdout) == httpx.get(f"{server.url}/v1/adapters/sql/versions/1").json()
    result = call("adapters", "show", "sql", "--json")
    assert json.loads(result.stdout) == httpx.get(f"{server.url}/v1/adapters/sql").json()


def test_show_of_an_adapter_lists_its_versions(call: Patchbay, pushed: Path) -> None:
    lines = call("adapters", "show", "sql").stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("sql@")] == ["sql@1", "sql@2"]


def test_show_of_a_version_prints_its_digest_and_its_report(call: Patchbay, server: Running) -> None:
    shown = call("adapters", "show", "sql@stable").stdout
    assert httpx.get(f"{server.url}/v1/adapters/sql/versions/1").json()["digest"] in shown
    assert "report: target_modules" in shown
    assert re.search(r"report: probe: effect: mean +0\.25", shown)


def test_a_fine_tuned_name_means_its_version(call: Patchbay, result: str, server: Running, tmp_path: Path) -> None:
    shown = call("adapters", "show", result, "--json")
    assert json.loads(shown.stdout) == httpx.get(f"{server.url}/v1/adapters/sql/versions/1").json()
    assert result in call("adapters", "show", result).stdout
    assert call("adapters", "pull", result, str(tmp_path / "copy")).stdout.startswith("sql@1:")
    assert call("adapters", "pin", result).stdout == "sql@1: resident, pinned\n"


def test_rm_of_a_fine_tuned_name_deletes_its_version_with_the_aliases(
    call: Patchbay, pushed: Path, result: str, server: Running
) -> None:
    asked = call("adapters", "rm", result, input="y\n")
    assert asked.exit_code == 0
    assert f"Delete version '{result}' with the aliases that point to it?" in asked.stderr
    adapter = httpx.get(f"{server.url}/v1/adapters/sql").json()
    assert (adapter["aliases"], adapter["version_count"]) == ({}, 1)
    assert call("adapters", "show", result).exit_code == 4


def test_push_of_a_directory_publishes_it_under_the_directorys_name(
    call: Patchbay, adapter: Path, server: Running
) -> None:
    result = call("adapters", "push", str(adapter))
    assert result.exit_code == 0
    assert re.match(r"tickets@1: rank 8, [\d.]+ kB, aliases: stable", result.stdout)
    assert httpx.get(f"{server.url}/v1/adapters/tickets/versions/1").json()["source"].startswith("upload")


def test_push_can_move_an_alias_at_once(call: Patchbay, adapter: Path) -> None:
    result = call("adapters", "push", str(adapter), "--name", "sql", "--alias", "canary")
    assert result.stdout.startswith("sql@2:")
    assert result.stdout.rstrip().endswith("aliases: canary")


def test_push_of_an_inert_adapter_has_to_be_meant(call: Patchbay, adapter: Path, server: Running) -> None:
    server.builder.knobs.effect = 0.0
    refused = call("adapters", "push", str(adapter))
    assert refused.exit_code == 1
    assert "--allow-inert" in refused.stderr
    assert call("adapters", "push", str(adapter), "--allow-inert").stdout.startswith("tickets@1:")


def test_push_of_an_adapter_for_another_base_has_to_be_forced(call: Patchbay, adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/other-7b"}))
    refused = call("adapters", "push", str(adapter))
    assert refused.exit_code == 1
    assert "org/other-7b" in refused.stderr
    assert "--force-base" in refused.stderr
    assert call("adapters", "push", str(adapter), "--force-base").stdout.startswith("tickets@1:")


def test_push_prints_the_notes_of_the_report(call: Patchbay, adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    result = call("adapters", "push", str(adapter))
    assert result.exit_code == 0
    notes = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert any("torch_dtype" in note for note in notes)
    assert any("chat template that differs" in note for note in notes)


def test_an_adapter_that_was_loaded_under_another_name_goes_by_it(
    call: Patchbay, adapter: Path, server: Running
) -> None:
    source = DirectorySource(adapter, [adapter])
    options = PublishOptions(lora_name="acme/sql")
    server.portal.call(server.state.publisher.publish, "acme-sql", source, options)
    assert call("adapters", "show", "acme-sql").stdout.splitlines()[1].split() == ["loaded", "as", "acme/sql"]
    assert "acme-sql@1" in call("adapters", "show", "acme/sql").stdout
    assert call("adapters", "pin", "acme/sql").stdout.startswith("acme-sql@1: ")
    assert call("adapters", "unpin", "acme/sql").exit_code == 0
    assert call("adapters", "rm", "acme/sql", "--yes").exit_code == 0
    assert "acme-sql" not in call("adapters", "list").stdout


def test_push_of_a_directory_without_weights_says_what_is_missing(call: Patchbay, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    result = call("adapters", "push", str(adapter))
    assert result.exit_code == 2
    assert "has no adapter_model.safetensors" in result.stderr


def test_push_of_what_is_neither_directory_nor_hub_id_is_a_usage_error(call: Patchbay) -> None:
    result = call("adapters", "push", "nowhere", "--name", "sql")
    assert result.exit_code == 2
    assert "neither a directory here nor a hub id" in result.stderr


def test_push_of_a_refused_adapter_prints_each_fault_on_its_own_line(call: Patchbay, adapter: Path) -> None:
    config = adapter / "adapter_config.json"
    asked = json.loads(config.read_text()) | {"use_dora": True, "bias": "all"}
    config.write_text(json.dumps(asked))
    result = call("adapters", "push", str(adapter))
    assert result.exit_code == 1
    first, *faults = result.stderr.splitlines()
    assert re.fullmatch(r"error: adapter refused, \d+ faults?", first)
    assert faults
    assert all("; needed " in fault for fault in faults)


def test_push_of_an_adapter_called_as_no_adapter_may_be_asks_nobody(patchbay: Patchbay, adapter: Path) -> None:
    result = patchbay("adapters", "push", str(adapter), "--name", "a/b")
    assert result.exit_code == 2
    assert "adapter name 'a/b' is not valid" in result.stderr


def test_pull_brings_back_the_bytes_that_were_pushed(call: Patchbay, pushed: Path, tmp_path: Path) -> None:
    result = call("adapters", "pull", "sql@2", str(tmp_path / "copy"))
    assert result.exit_code == 0
    assert result.stdout == f"sql@2: {tmp_path / 'copy'}\n"
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == sorted(FILES)
    for file in FILES:
        assert (tmp_path / "copy" / file).read_bytes() == (pushed / file).read_bytes()


def test_pull_follows_an_alias(call: Patchbay, pushed: Path, tmp_path: Path) -> None:
    assert call("adapters", "pull", "sql", str(tmp_path / "copy")).stdout.startswith("sql@1:")
    call("adapters", "promote", "sql", "2")
    assert call("adapters", "pull", "sql", str(tmp_path / "copy")).stdout.startswith("sql@2:")
    weights = "adapter_model.safetensors"
    assert (tmp_path / "copy" / weights).read_bytes() == (pushed / weights).read_bytes()


def test_alias_points_to_a_number_or_to_where_another_alias_points(call: Patchbay, pushed: Path) -> None:
    assert call("adapters", "alias", "sql", "canary=2").stdout.startswith("sql@canary is version 2")
    assert call("adapters", "alias", "sql", "backup=stable").stdout.startswith("sql@backup is version 1")


def test_an_alias_that_is_not_where_it_was_expected_stays_where_it_is(
    call: Patchbay, pushed: Path, server: Running
) -> None:
    result = call("adapters", "alias", "sql", "stable=2", "--expected", "2")
    assert result.exit_code == 1
    assert "stable" in result.stderr
    assert stable_of(server, "sql") == 1
    assert call("adapters", "alias", "sql", "stable=2", "--expected", "1").exit_code == 0
    assert stable_of(server, "sql") == 2


def test_an_alias_can_be_expected_not_to_exist(call: Patchbay, pushed: Path) -> None:
    assert call("adapters", "alias", "sql", "canary=1", "--expected", "none").exit_code == 0
    assert call("adapters", "alias", "sql", "canary=2", "--expected", "none").exit_code == 1


@pytest.mark.parametrize("move", ["canary", "canary=", "=2"])
def test_an_alias_move_without_both_sides_is_a_usage_error(call: Patchbay, move: str) -> None:
    result = call("adapters", "alias", "sql", move)
    assert result.exit_code == 2
    assert "write ALIAS=VERSION" in result.stderr


def test_promote_and_rollback_move_stable_forth_and_back(call: Patchbay, pushed: Path, server: Running) -> None:
    assert call("adapters", "promote", "sql", "2").stdout.startswith("sql@stable is version 2")
    assert stable_of(server, "sql") == 2
    assert call("adapters", "rollback", "sql").stdout.startswith("sql@stable is version 1")
    assert stable_of(server, "sql") == 1


def test_load_and_unload_say_where_the_version_stands(call: Patchbay) -> None:
    assert call("adapters", "load", "sql").stdout == "sql@1: resident\n"
    assert call("adapters", "unload", "sql").stdout == "sql@1: not resident\n"


def test_pin_and_unpin(call: Patchbay) -> None:
    assert call("adapters", "pin", "sql@stable").stdout == "sql@1: resident, pinned\n"
    assert call("adapters", "unpin", "sql@1").stdout == "sql@1: resident\n"


def test_rm_asks_first(call: Patchbay, server: Running) -> None:
    result = call("adapters", "rm", "sql", input="n\n")
    assert result.exit_code == 1
    assert "Delete adapter 'sql' with all its versions?" in result.stderr
    assert httpx.get(f"{server.url}/v1/adapters/sql").status_code == 200


def test_rm_deletes_an_adapter(call: Patchbay, server: Running) -> None:
    assert call("adapters", "rm", "sql", input="y\n").exit_code == 0
    assert httpx.get(f"{server.url}/v1/adapters/sql").status_code == 404


def test_rm_deletes_one_version(call: Patchbay, pushed: Path, server: Running) -> None:
    assert call("adapters", "rm", "sql@2", "--yes").exit_code == 0
    assert httpx.get(f"{server.url}/v1/adapters/sql").json()["version_count"] == 1


def test_rm_of_an_alias_keeps_its_version(call: Patchbay, pushed: Path, server: Running) -> None:
    call("adapters", "alias", "sql", "canary=2")
    assert call("adapters", "rm", "sql@canary", "--yes").exit_code == 0
    adapter = httpx.get(f"{server.url}/v1/adapters/sql").json()
    assert adapter["aliases"] == {"stable": 1}
    assert adapter["version_count"] == 2


def test_rm_of_a_version_in_use_is_refused_with_what_holds_it(call: Patchbay) -> None:
    result = call("adapters", "rm", "sql@1", "--yes")
    assert result.exit_code == 1
    assert "alias 'stable' points to version 'sql@1'" in result.stderr


@pytest.mark.parametrize("ref", ["nobody", "nobody@1", "sql@9", "sql@nowhere"])
def test_what_does_not_exist_exits_with_4(call: Patchbay, ref: str) -> None:
    result = call("adapters", "show", ref)
    assert result.exit_code == 4
    assert result.stderr.startswith("error: ")


def test_the_base_model_is_no_adapter(call: Patchbay) -> None:
    result = call("adapters", "load", "base")
    assert result.exit_code == 2
    assert "is the base model" in result.stderr


def test_list_follows_pages(call: Patchbay, adapter: Path, server: Running, tmp_path: Path) -> None:
    """Calls the client itself: the command line uses the largest page size."""
    from server.cli.client import connect

    with connect(server.url, None) as client:
        listing = client.all_pages("/v1/adapters", page=1)
    assert [each["name"] for each in listing["data"]] == ["json", "sentiment", "sql"]
    assert (listing["first_id"], listing["last_id"], listing["has_more"]) == ("json", "sql", False)
