"""`patchbay files` against a running server."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.cli import transfer
from server.cli.client import ApiClient
from server.cli.failure import CommandFailed
from tests.server.cli.conftest import Patchbay, Running


def of_server(server: Running, file_id: str) -> dict[str, Any]:
    return httpx.get(f"{server.url}/v1/files/{file_id}").json()


def test_push_prints_the_id_alone(call: Patchbay, server: Running, rows: Path) -> None:
    result = call("files", "push", str(rows))
    assert (result.exit_code, result.stderr) == (0, "")
    file = of_server(server, result.stdout.strip())
    assert (file["filename"], file["purpose"], file["bytes"]) == ("train.jsonl", "fine-tune", rows.stat().st_size)


def test_push_for_another_purpose(call: Patchbay, server: Running, rows: Path) -> None:
    file_id = call("files", "push", str(rows), "--purpose", "batch").stdout.strip()
    assert of_server(server, file_id)["purpose"] == "batch"


def test_push_for_a_purpose_that_only_the_server_writes_for_is_refused(call: Patchbay, rows: Path) -> None:
    result = call("files", "push", str(rows), "--purpose", "fine-tune-results")
    assert result.exit_code == 1
    assert "purpose is one of" in result.stderr


def test_push_of_a_file_that_is_not_there_is_a_usage_error(call: Patchbay, tmp_path: Path) -> None:
    assert call("files", "push", str(tmp_path / "none.jsonl")).exit_code == 2


def test_list_shows_the_newest_first_and_those_for_one_purpose_alone(call: Patchbay, rows: Path) -> None:
    first, second = (call("files", "push", str(rows), "--purpose", each).stdout.strip() for each in ("batch", "evals"))
    header, *lines = call("files", "list").stdout.splitlines()
    assert header.split() == ["ID", "NAME", "PURPOSE", "SIZE", "STATUS", "CREATED", "EXPIRES"]
    assert [line.split()[:3] for line in lines] == [[second, "train.jsonl", "evals"], [first, "train.jsonl", "batch"]]
    _, *lines = call("files", "list", "--purpose", "batch").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [first]


def test_json_listings_are_what_the_server_sends(call: Patchbay, server: Running, file_id: str) -> None:
    assert json.loads(call("files", "list", "--json").stdout) == httpx.get(f"{server.url}/v1/files").json()
    assert json.loads(call("files", "show", file_id, "--json").stdout) == of_server(server, file_id)


def test_show_tells_name_size_and_status(call: Patchbay, file_id: str) -> None:
    shown = dict(line.split(maxsplit=1) for line in call("files", "show", file_id).stdout.splitlines())
    shown_fields = {name: value.strip() for name, value in shown.items()}
    assert (shown_fields["id"], shown_fields["name"], shown_fields["status"], shown_fields["details"]) == (
        file_id,
        "train.jsonl",
        "processed",
        "-",
    )


def test_pull_writes_the_file_under_its_own_name(call: Patchbay, file_id: str, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with contextlib.chdir(tmp_path / "here"):
        assert call("files", "pull", file_id).stdout == f"{file_id}: train.jsonl\n"
    assert (tmp_path / "here" / "train.jsonl").read_bytes() == rows.read_bytes()


def test_pull_replaces_only_a_file_that_was_named(call: Patchbay, file_id: str, rows: Path, tmp_path: Path) -> None:
    content = rows.read_bytes()
    rows.write_text("edited since")
    result = call("files", "pull", file_id, str(tmp_path))
    assert result.exit_code == 2
    assert "train.jsonl exists already" in result.stderr
    assert rows.read_text() == "edited since"
    assert call("files", "pull", file_id, str(rows)).exit_code == 0
    assert rows.read_bytes() == content


def test_pull_into_a_directory_that_is_not_there_is_a_usage_error(call: Patchbay, file_id: str, tmp_path: Path) -> None:
    result = call("files", "pull", file_id, str(tmp_path / "no" / "such.jsonl"))
    assert (result.exit_code, "there is no directory" in result.stderr) == (2, True)


def test_pull_asks_where_a_file_goes_whose_name_is_none(call: Patchbay, server: Running, tmp_path: Path) -> None:
    form = {"purpose": (None, "batch"), "file": ("..", b"x")}
    file_id = httpx.post(f"{server.url}/v1/files", files=form).json()["id"]
    result = call("files", "pull", file_id, str(tmp_path))
    assert (result.exit_code, "name the file to write" in result.stderr) == (2, True)


def test_a_download_that_ends_too_early_leaves_nothing_behind(tmp_path: Path) -> None:
    answer = httpx.MockTransport(lambda request: httpx.Response(200, content=b"01234"))
    with (
        httpx.Client(transport=answer, base_url="http://server") as http,
        pytest.raises(CommandFailed, match="5 bytes"),
    ):
        transfer.pull_file(ApiClient(http), "/v1/files/file-x/content", tmp_path / "rows.jsonl", 10)
    assert list(tmp_path.iterdir()) == []


def test_rm_asks_first(call: Patchbay, server: Running, file_id: str) -> None:
    assert call("files", "rm", file_id, input="n\n").exit_code == 1
    assert of_server(server, file_id)["id"] == file_id
    assert call("files", "rm", file_id, input="y\n").exit_code == 0
    assert of_server(server, file_id)["error"]["code"] == "file_not_found"


def test_rm_of_a_file_that_a_job_needs_is_refused(call: Patchbay, file_id: str) -> None:
    assert call("train", file_id).exit_code == 0
    result = call("files", "rm", file_id, "--yes")
    assert result.exit_code == 1
    assert file_id in result.stderr


@pytest.mark.parametrize("command", [("show",), ("pull",), ("rm", "--yes")])
def test_a_file_that_does_not_exist_exits_with_4(call: Patchbay, command: tuple[str, ...]) -> None:
    assert call("files", *command, "file-none").exit_code == 4
