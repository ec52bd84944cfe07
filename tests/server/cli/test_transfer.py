"""Downloads from a server that does not keep its word, and names made of sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from adapters.publish_options import PublishOptions
from server.cli import transfer
from server.cli.client import ApiClient
from server.cli.failure import CommandFailed

ANNOUNCED = 10


Pull = Callable[[dict[str, bytes]], None]


@pytest.fixture
def pull(tmp_path: Path) -> Pull:
    """Pulls ``files`` (name → bytes) that are announced with ten bytes each, into an empty directory."""

    def pulled(files: dict[str, bytes]) -> None:
        listing = {"data": [{"name": name, "size_bytes": ANNOUNCED} for name in files]}

        def answer(request: httpx.Request) -> httpx.Response:
            name = request.url.path.rpartition("/content")[2].strip("/")
            return httpx.Response(200, content=files[name]) if name else httpx.Response(200, json=listing)

        with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://server") as http:
            transfer.pull(ApiClient(http), "/v1/adapters/sql/versions/1", tmp_path)

    return pulled


def test_a_file_that_is_shorter_than_announced_leaves_nothing_behind(pull: Pull, tmp_path: Path) -> None:
    whole, short = b"0123456789", b"01234"
    with pytest.raises(CommandFailed, match="5 bytes arrived, 10 were announced"):
        pull({"adapter_config.json": whole, "adapter_model.safetensors": short})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_no_adapter_has_is_not_written(pull: Pull, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="unexpected file"):
        pull({"../evil": b"0123456789"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [("org/sql-lora", "sql-lora"), ("org/sql-lora@main", "sql-lora"), ("s3://bucket/adapters/sql", "sql")],
)
def test_an_adapter_is_named_as_its_repository_or_directory(source: str, name: str) -> None:
    assert transfer.adapter_name(source) == name


def pushed(source: str, options: PublishOptions = PublishOptions()) -> bytes:  # noqa: B008 - an immutable value
    """Push ``source`` and return the body of the request."""
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.read())
        return httpx.Response(201, json={})

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://server") as http:
        transfer.push(ApiClient(http), "sql", source, options)
    (body,) = sent
    return body


@pytest.mark.parametrize(
    ("init", "folder", "is_sent"),
    [("pissa", "initial", True), ("olora", "pissa_init", True), (True, "initial", False), ("pissa", "older", False)],
)
def test_the_first_adapter_is_sent_where_it_counts(
    tmp_path: Path, init: str | bool, folder: str, is_sent: bool
) -> None:
    (tmp_path / folder).mkdir()
    for directory, content in ((tmp_path, b"trained"), (tmp_path / folder, b"fresh")):
        (directory / "adapter_config.json").write_text(json.dumps({"init_lora_weights": init}))
        (directory / "adapter_model.safetensors").write_bytes(content)
    body = pushed(str(tmp_path))
    assert b"trained" in body
    assert (b'filename="initial/adapter_model.safetensors"' in body, b"fresh" in body) == (is_sent, is_sent)


def test_an_original_with_its_first_adapter_is_pulled_as_it_lay(pull: Pull, tmp_path: Path) -> None:
    names = ["adapter_config.json", "adapter_model.safetensors"]
    whole = {name: f"{number:010}".encode() for number, name in enumerate([*names, *(f"initial/{n}" for n in names)])}
    pull(whole)
    assert {name: (tmp_path / name).read_bytes() for name in whole} == whole


def test_a_hub_id_is_fetched_by_the_server() -> None:
    body = pushed("org/sql-lora@main", PublishOptions(alias="canary"))
    assert body == b'{"source":"hf://org/sql-lora@main","alias":"canary"}'


def test_a_directory_that_is_not_there_is_said_to_be_missing_where_the_hub_has_no_such_repository() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"error": {"message": "the hub has no outputs/checkpoint-5", "code": ""}})

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://server") as http:
        with pytest.raises(CommandFailed, match="and there is no directory outputs/checkpoint-5 here"):
            transfer.push(ApiClient(http), "sql", "outputs/checkpoint-5", PublishOptions())
        with pytest.raises(CommandFailed, match=r"no outputs/checkpoint-5$"):
            transfer.push(ApiClient(http), "sql", "hf://outputs/checkpoint-5", PublishOptions())


def saved(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(str(folder).encode())


@pytest.mark.parametrize("folder", ["checkpoint-5", "run/checkpoint-5"])
def test_the_only_adapter_below_a_directory_is_pushed_with_a_note(
    tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / folder, tmp_path / folder / "initial")
    assert str(tmp_path / folder).encode() in pushed(str(tmp_path))
    assert f"{folder}/" in "".join(capsys.readouterr())


def test_several_adapters_below_a_directory_are_named(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoint-5", tmp_path / "checkpoint-10")
    with pytest.raises(CommandFailed, match=r"such as .*checkpoint-10, .*checkpoint-5$"):
        pushed(str(tmp_path))


def test_half_an_adapter_does_not_stand_for_one_below_it(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoint-5")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CommandFailed, match=r"has no adapter_model\.safetensors; .*such as .*checkpoint-5"):
        pushed(str(tmp_path))


def test_a_file_is_not_pushed(tmp_path: Path) -> None:
    (tmp_path / "adapter.zip").write_bytes(b"PK")
    with pytest.raises(CommandFailed, match=r"adapter\.zip' is a file: name the directory"):
        pushed(str(tmp_path / "adapter.zip"))
