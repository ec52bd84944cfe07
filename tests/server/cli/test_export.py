"""`patchbay adapters export`: to a directory, and to a hub on 127.0.0.1 by the hub's own client."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from anyio.from_thread import BlockingPortal, start_blocking_portal
from safetensors.torch import load_file, save_file
from structlog.testing import capture_logs
from typer.testing import Result

import embedded
from adapters.base_model import BaseModel
from adapters.errors import SourceForbidden
from adapters.storage.manifest import CONFIG_FILE, FILES, WEIGHTS_FILE, Manifest
from server.cli.export_target import HubTarget
from server.cli.failure import CommandFailed
from server.engine.fake import FakeBuilder
from tests.adapters.hub_stand_in import Fault, HubStandIn, listed
from tests.server.cli.conftest import Patchbay, Running
from tests.server.opened import Listening, Opening
from trainer.run_directory import COMPLETE, Marker, RunDirectory, RunResult

TOKEN = "hf_writes"
REPOSITORY = "org/sql"
TO_HUB = f"hf://{REPOSITORY}"
ALL = {*FILES, "README.md"}


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    """Empty; a write needs ``TOKEN``."""
    hub = HubStandIn(wanted_token=TOKEN)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(hub.listening()):
        yield hub


@pytest.fixture
def opening(opening: Opening, hub: HubStandIn) -> Opening:
    """The servers here read from ``hub``, without a token for it."""
    return partial(opening, hub_endpoint=hub.endpoint)


@pytest.fixture
def export(patchbay: Patchbay, server: Running, hub: HubStandIn) -> Callable[..., Result]:
    """Runs `patchbay adapters export` of ``sql``, with the token of the hub in the environment."""

    def run(*arguments: str, token: str = TOKEN) -> Result:
        environment = {"PATCHBAY_URL": server.url, "HF_TOKEN": token}
        return patchbay("adapters", "export", "sql", *arguments, "--hub-endpoint", hub.endpoint, env=environment)

    return run


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A directory as `export` hands it to its target."""
    directory = tmp_path / "prepared"
    directory.mkdir()
    for name, content in ((CONFIG_FILE, b"{}"), (WEIGHTS_FILE, b"w" * 1000), ("README.md", b"---\ntags: []\n---\n")):
        (directory / name).write_bytes(content)
    return directory


@pytest.fixture
def to_hub(hub: HubStandIn) -> HubTarget:
    """A target that is soon tired of a silent hub."""
    return HubTarget(REPOSITORY, None, public=False, endpoint=hub.endpoint, token=TOKEN, answer_timeout_s=0.3)


@pytest.fixture
def trained_job(call: Patchbay, server: Running, file_id: str) -> str:
    """The id of a job whose run trained a model whole."""
    job_id: str = call("train", file_id, "--method", "full").stdout.strip()
    run = RunDirectory(server.state.settings.runs_dir / job_id)
    model = run.checkpoint_path(1) / "model"
    shutil.copytree(embedded.BASE, model)
    (run.checkpoint_path(1) / COMPLETE).write_text(json.dumps(asdict(Marker(1, {}, 1, 1.0, last=True))))
    run.write_result(RunResult("step-1", "step-1", 1, 1, 1.0, 1, "ab", {}, {}, {}))
    return job_id


def test_a_model_that_was_trained_whole_is_exported_as_a_base(call: Patchbay, trained_job: str, tmp_path: Path) -> None:
    target = tmp_path / "model"
    result = call("jobs", "export", trained_job, str(target))
    assert result.exit_code == 0, result.output
    assert f"patchbay serve {target}" in result.output
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in embedded.BASE.iterdir()
    }
    again = call("jobs", "export", trained_job, str(target))
    assert (again.exit_code, "is not empty" in again.output) == (2, True)


def version_of(server: Running, ref: str = "sql/versions/1") -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{server.url}/v1/adapters/{ref}").json()
    return answer


def test_a_directory_gets_the_files_and_a_card(call: Patchbay, server: Running, tmp_path: Path) -> None:
    result = call("adapters", "export", "sql", str(tmp_path / "a" / "out"))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"sql@1: {tmp_path / 'a' / 'out'}\n"
    out = tmp_path / "a" / "out"
    assert {path.name for path in out.iterdir()} == ALL
    assert Manifest.of(out).digest == version_of(server)["digest"]
    assert version_of(server)["digest"] in (out / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir() if "export" in path.name] == []


def test_what_was_exported_can_be_pushed_again(call: Patchbay, server: Running, tmp_path: Path) -> None:
    call("adapters", "export", "sql", str(tmp_path / "out"))
    assert call("adapters", "push", str(tmp_path / "out"), "--name", "again").exit_code == 0
    assert version_of(server, "again/versions/1")["digest"] == version_of(server)["digest"]


def test_a_directory_that_holds_something_is_left_alone(call: Patchbay, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    result = call("adapters", "export", "sql", str(tmp_path))
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s3://bucket/sql"], "cannot export to"),
        (["hf://sql"], "is not a repository"),
        (["hf://org/sql@"], "is not a repository"),
        (["hf://org/sql/more"], "is not a repository"),
        (["out", "--base", str(embedded.BASE)], "add --merged"),
    ],
)
def test_a_command_that_means_nothing_is_a_usage_error(call: Patchbay, arguments: list[str], message: str) -> None:
    result = call("adapters", "export", "sql", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_what_does_not_exist_is_not_exported(call: Patchbay, tmp_path: Path) -> None:
    assert call("adapters", "export", "sql@9", str(tmp_path / "out")).exit_code == 4
    assert not (tmp_path / "out").exists()


def test_an_export_to_the_hub_comes_back_from_it_with_the_same_digest(
    call: Patchbay, export: Callable[..., Result], server: Running, hub: HubStandIn
) -> None:
    exported = export(TO_HUB)
    assert exported.exit_code == 0, exported.stderr
    source = exported.stdout.strip().removeprefix("sql@1: ")
    sha = hub.repositories[REPOSITORY].branches["main"]
    assert source == f"{TO_HUB}@{sha}"
    hub.repositories[REPOSITORY].private = False
    back = httpx.post(f"{server.url}/v1/adapters/back/versions", json={"source": source})
    assert back.status_code == 201, back.text
    assert (back.json()["digest"], back.json()["source"]) == (version_of(server)["digest"], source)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault("/api/", status=401), 403),
        (Fault("/resolve/", status=403), 403),
        (Fault("/api/", status=404), 404),
        (Fault("/resolve/", status=503), 502),
        (Fault("/api/", body=b"<html>"), 502),
        (Fault("/resolve/", cut_after=3), 502),
        (Fault("/api/", redirect="http://169.254.169.254"), 403),
        (Fault("/resolve/", redirect="http://10.0.0.7"), 403),
        (Fault("/resolve/", redirect="http://127.0.0.1:1"), 502),
        (Fault(f"/{WEIGHTS_FILE}", body=b"other bytes"), 502),
    ],
)
def test_a_pull_that_fails_says_why_and_leaves_the_server_as_it_was(
    hub: HubStandIn, server: Running, adapter: Path, fault: Fault, status: int
) -> None:
    hub.add(REPOSITORY, {name: (adapter / name).read_bytes() for name in FILES})
    hub.faults = [fault]
    back = httpx.post(f"{server.url}/v1/adapters/back/versions", json={"source": TO_HUB}, timeout=30)
    assert (back.status_code, REPOSITORY in back.text or "hub redirects to" in back.text) == (status, True), back.text
    assert httpx.get(f"{server.url}/v1/adapters/back").status_code == 404
    assert list(server.state.settings.data_dir.glob("staging/*")) == []
    chat = {"model": "sql", "messages": [{"role": "user", "content": "hello"}]}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=chat).json()["model"] == "sql@1"


def test_a_repository_is_made_private_and_filled_in_one_commit(export: Callable[..., Result], hub: HubStandIn) -> None:
    assert export(TO_HUB).exit_code == 0
    repository = hub.repositories[REPOSITORY]
    assert repository.private
    assert len(repository.commits) == 2  # the one that the hub begins with, and ours
    files = hub.files(REPOSITORY)
    assert files.keys() - {".gitattributes"} == ALL
    assert f"--lora-modules sql={REPOSITORY}" in files["README.md"].decode()


def test_a_second_export_of_the_same_makes_no_commit(export: Callable[..., Result], hub: HubStandIn) -> None:
    first, second = export(TO_HUB), export(TO_HUB)
    assert second.stderr == ""
    assert first.stdout == second.stdout
    assert len(hub.repositories[REPOSITORY].commits) == 2


def test_a_branch_is_made_and_main_stays(export: Callable[..., Result], hub: HubStandIn) -> None:
    before = hub.add(REPOSITORY, {"mine": b"precious"}, private=True)
    assert export(f"{TO_HUB}@runs/7").exit_code == 0
    assert hub.repositories[REPOSITORY].branches["main"] == before
    assert hub.files(REPOSITORY, "runs/7").keys() == {*ALL, "mine"}


def test_a_public_repository_must_be_asked_for(export: Callable[..., Result], hub: HubStandIn) -> None:
    hub.add(REPOSITORY, {"mine": b"precious"}, private=False)
    refused = export(TO_HUB)
    assert refused.exit_code == 1
    assert "pass --public" in refused.stderr
    assert hub.files(REPOSITORY).keys() == {"mine"}
    assert export(TO_HUB, "--public").exit_code == 0
    assert export("hf://org/new", "--public").exit_code == 0
    assert not hub.repositories["org/new"].private


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (Fault("/api/", status=403), 1, "set HF_TOKEN"),
        (Fault("/commit/", status=403), 1, "set HF_TOKEN"),
        (Fault("/preupload/", status=404), 4, "finds no org/sql"),
        (Fault("/repos/create", status=500), 1, "answered 500"),
        (Fault("/commit/", status=500), 1, "answered 500"),
        (Fault("/repos/create", redirect="http://169.254.169.254"), 1, "not followed"),
        (Fault("/commit/", redirect="http://10.0.0.7"), 1, "not followed"),
        (Fault("PUT /large/", redirect="http://10.0.0.7"), 1, "not followed"),
        (Fault("/commit/", body=b"[]"), 1, "malformed response"),
        (Fault("/repos/create", body=b"<html>"), 1, "malformed response"),
        (Fault("/validate-yaml", body=b"[]"), 1, "malformed response"),
        (Fault("/repos/create", cut_after=3), 3, "could not be reached"),
        (Fault("PUT /large/", status=400), 1, "answered 400"),
    ],
)
def test_a_hub_that_fails_is_reported_and_nothing_is_committed(
    export: Callable[..., Result],
    hub: HubStandIn,
    server: Running,
    tmp_path: Path,
    fault: Fault,
    code: int,
    message: str,
) -> None:
    hub.faults = [fault]
    result = export(TO_HUB)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(len(repository.commits) == 1 for repository in hub.repositories.values())
    assert version_of(server)["residency"] == "resident"


def test_a_commit_whose_answer_is_lost_is_found_by_the_next_try(export: Callable[..., Result], hub: HubStandIn) -> None:
    hub.faults = [Fault("/commit/", cut_after=3, times=1)]
    lost = export(TO_HUB)
    assert (lost.exit_code, "try again" in lost.stderr) == (3, True)
    again = export(TO_HUB)
    assert again.stdout == f"sql@1: {TO_HUB}@{hub.repositories[REPOSITORY].branches['main']}\n"
    assert len(hub.repositories[REPOSITORY].commits) == 2


@pytest.mark.parametrize("on", ["/preupload/", "PUT /large/"])
def test_a_hub_that_says_later_is_asked_again(export: Callable[..., Result], hub: HubStandIn, on: str) -> None:
    hub.faults = [Fault(on, status=503, times=1)]
    assert export(TO_HUB).exit_code == 0
    assert hub.files(REPOSITORY).keys() - {".gitattributes"} == ALL


@pytest.mark.parametrize("lie", [{"size": 3, "lfs": None}, listed(b"x" * 8)])
def test_a_hub_that_lists_other_bytes_than_were_sent_is_not_believed(
    export: Callable[..., Result], hub: HubStandIn, lie: dict[str, Any]
) -> None:
    hub.listing = {WEIGHTS_FILE: lie}
    result = export(TO_HUB)
    assert (result.exit_code, "lists other bytes" in result.stderr) == (1, True)


def test_a_wrong_token_is_refused(export: Callable[..., Result], hub: HubStandIn) -> None:
    result = export(TO_HUB, token="hf_reads")
    assert (result.exit_code, "set HF_TOKEN" in result.stderr) == (1, True)
    assert hub.repositories == {}


def test_a_hub_that_is_down_cannot_be_reached(call: Patchbay) -> None:
    result = call("adapters", "export", "sql", TO_HUB, "--hub-endpoint", "http://127.0.0.1:1")
    assert (result.exit_code, "could not be reached" in result.stderr) == (3, True)


@pytest.mark.parametrize("on", ["/repos/create", "/validate-yaml", "/commit/"])
def test_a_silent_hub_is_given_up(hub: HubStandIn, to_hub: HubTarget, prepared: Path, on: str) -> None:
    hub.faults = [Fault(on, stall=True)]
    with pytest.raises(CommandFailed, match="could not be reached"):
        to_hub.take(prepared, "title")
    assert all(len(repository.commits) == 1 for repository in hub.repositories.values())


def test_an_upload_into_the_clients_own_network_is_not_made(hub: HubStandIn, to_hub: HubTarget, prepared: Path) -> None:
    hub.faults = [
        Fault(
            "/objects/batch",
            body=json.dumps(
                {
                    "objects": [
                        {
                            "oid": Manifest.of(prepared).files[WEIGHTS_FILE].sha256,
                            "size": 1000,
                            "actions": {"upload": {"href": "http://10.0.0.7/take-this"}},
                        }
                    ]
                }
            ).encode(),
        )
    ]
    with pytest.raises(SourceForbidden, match=r"10\.0\.0\.7"):
        to_hub.take(prepared, "title")


@pytest.fixture
def embedded_url(opening: Opening, listening: Listening, portal: BlockingPortal) -> Iterator[str]:
    """A server that says it has the embedded base, and has its example adapters."""

    @asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        base = BaseModel.from_directory(embedded.BASE, "embedded-base")
        builder = FakeBuilder(base, directory=embedded.BASE)
        async with opening(builder=builder, bundled_adapters=embedded.ADAPTERS) as opened, listening(opened.app) as url:
            yield url

    with (
        capture_logs(),
        portal.wrap_async_context_manager(serving()) as url,
    ):
        yield url


def test_a_merged_model_is_the_base_with_the_adapters_change(
    patchbay: Patchbay, embedded_url: str, hub: HubStandIn, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    result = patchbay("adapters", "export", "sql", str(out), "--merged", env={"PATCHBAY_URL": embedded_url})
    assert result.exit_code == 0, result.stderr
    assert out.joinpath("README.md").read_text().startswith("---\nbase_model: patchbay/embedded-base\n")
    assert json.loads(out.joinpath("config.json").read_text())["model_type"] == "qwen3"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (embedded.BASE / name).read_bytes()
    base, merged = (load_file(directory / "model.safetensors") for directory in (embedded.BASE, out))
    assert base.keys() == merged.keys()
    changes = changes_of(embedded.ADAPTERS / "sql")
    assert changes.keys() <= base.keys()
    for name, weight in base.items():
        change = changes.get(name, torch.zeros(()))
        meant = weight.float() + change
        rounding = 2**-8 * (meant.abs() + change.abs())  # the change and the sum are each rounded to bfloat16
        assert merged[name].dtype == weight.dtype
        assert bool(((merged[name].float() - meant).abs() <= rounding).all()), name
        assert torch.equal(merged[name], weight) == (name not in changes)


def changes_of(adapter: Path) -> dict[str, torch.Tensor]:
    """What a plain LoRA adds to which weight."""
    config = json.loads((adapter / CONFIG_FILE).read_text())
    factors = {name: tensor.float() for name, tensor in load_file(adapter / WEIGHTS_FILE).items()}
    return {
        name.removeprefix("base_model.model.").replace("lora_A.", ""): config["lora_alpha"]
        / config["r"]
        * factors[name.replace("lora_A", "lora_B")]
        @ tensor
        for name, tensor in factors.items()
        if "lora_A" in name
    }


def test_a_base_that_is_not_the_versions_own_is_refused(call: Patchbay, tmp_path: Path) -> None:
    result = call("adapters", "export", "sql", str(tmp_path / "out"), "--merged")
    assert result.exit_code == 1
    assert "is not the base model of sql@1" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_base_that_cannot_be_read_is_refused(call: Patchbay, tmp_path: Path) -> None:
    result = call("adapters", "export", "sql", str(tmp_path / "out"), "--merged", "--base", str(tmp_path))
    assert result.exit_code == 2
    assert "config.json is missing" in result.stderr


def test_a_merge_that_fails_leaves_nothing(patchbay: Patchbay, embedded_url: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(embedded.BASE, base)
    weights = load_file(base / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"][0, 0] = torch.nan
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    arguments = ("export", "sql", str(tmp_path / "out"), "--merged", "--base", str(base))
    result = patchbay("adapters", *arguments, env={"PATCHBAY_URL": embedded_url})
    assert result.exit_code == 1
    assert "merging failed" in result.stderr
    assert "NaNs detected" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "data"]
