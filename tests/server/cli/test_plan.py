"""`patchbay plan`: sizes from a base model's files, before anything runs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from typer.testing import CliRunner, Result

import embedded
from bench.target import PATCHBAY
from server.cli import app
from server.slot_plan import ALWAYS, Plan, Shapes
from tests.adapters.hub_stand_in import HubStandIn

REPOSITORY, TOKEN = "org/base", "hf_reads"
LARGE = Shapes(linear=2_600_000, vocabulary=264_704, weights=8_030_000_000, kv_numbers=2 * 32 * 8 * 128)
"""A base model of eight billion parameters."""


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


def of_large(**changes: Any) -> Plan:
    return Plan(**{"shapes": LARGE, "slots": 8, "rank": 16, "residents": 64, "resident_limit": 32 * 2**30, **changes})


def test_the_embedded_base_is_planned_for_where_none_is_named() -> None:
    planned = json.loads(plan("--json", "--max-loras", "4", "--max-lora-rank", "8").stdout)
    assert (planned["slots"], planned["rank"]) == (4, 8)
    assert planned["slot_bytes"] == planned["slot_kv_tokens"] * planned["kv_bytes_per_token"]
    assert planned["weights_bytes"] > planned["slot_bytes"] > 0


def test_twice_the_slots_or_twice_the_rank_take_twice_the_memory() -> None:
    planned = of_large()
    assert planned.slot_bytes(8, 16) == 2 * planned.slot_bytes(4, 16) == 2 * planned.slot_bytes(8, 8)


def test_a_large_rank_is_advised_with_fewer_slots_and_they_stay_a_tenth_of_the_weights() -> None:
    advised = {rank: of_large(rank=rank).recommended_slots for rank in (8, 16, 64, 512)}
    assert advised == {8: 32, 16: 16, 64: 4, 512: 1}
    weights = LARGE.weights * 2
    assert all(of_large().slot_bytes(slots, rank) <= weights / 10 for rank, slots in advised.items() if slots > 1)


def test_a_small_base_is_advised_all_slots_whose_memory_nobody_misses() -> None:
    small = Shapes(linear=16_384, vocabulary=8_704, weights=3_400_000, kv_numbers=1024)
    assert of_large(shapes=small).recommended_slots == 32
    assert of_large(shapes=small).slot_bytes(32, 16) < ALWAYS


def test_no_more_residents_are_advised_than_the_host_holds() -> None:
    assert of_large().to_json()["recommended_residents"] == 64
    assert of_large(resident_limit=2**30).to_json()["recommended_residents"] == 2**30 // of_large().resident_bytes == 12


def test_people_read_a_table_of_ranks_and_slots() -> None:
    shown = plan("--max-residents", "9").stdout
    assert "RANK" in shown
    assert "8 SLOTS" in shown
    assert "recommended  --max-loras 32 --max-lora-rank 16 --max-residents 9" in shown


def test_a_directory_without_a_base_model_is_refused_in_one_line(tmp_path: Path) -> None:
    refused = plan(str(tmp_path))
    assert refused.exit_code == 2
    assert "config.json is missing" in refused.output


@pytest.mark.parametrize("wrong", [("--max-loras", "0"), ("--max-residents", "1")])
def test_a_number_that_the_server_would_refuse_is_refused(wrong: tuple[str, str]) -> None:
    assert plan(*wrong).exit_code == 2


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    """Holds the embedded base, and a private copy of it."""
    files = {path.name: path.read_bytes() for path in embedded.BASE.iterdir()}
    hub = HubStandIn(wanted_token=TOKEN)
    hub.add(REPOSITORY, files)
    hub.add("org/private", files, private=True)
    hub.add("org/adapter", {"adapter_config.json": b"{}"})
    hub.add("org/pickled", {"config.json": b"{}", "pytorch_model.bin": b""})
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(hub.listening()):
        yield hub


PlanOf = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def plan_of(hub: HubStandIn, tmp_path: Path) -> PlanOf:
    """Runs `patchbay plan` in a process whose environment names ``hub``."""

    def run(*arguments: str, token: str = "", endpoint: str = hub.endpoint) -> subprocess.CompletedProcess[str]:
        variables = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": token,
            "HF_HUB_OFFLINE": "0",
        }
        command = [PATCHBAY, "plan", *arguments]
        return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)

    return run


def test_a_base_on_a_hub_is_planned_for_as_the_same_base_in_a_directory_is(plan_of: PlanOf, tmp_path: Path) -> None:
    there = plan_of(REPOSITORY, "--json")
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout) == json.loads(plan(str(embedded.BASE), "--json").stdout)
    assert not list(tmp_path.rglob("*.safetensors"))  # config and headers tell


def test_a_private_base_is_planned_for_with_a_token_that_may_read_it(plan_of: PlanOf) -> None:
    assert plan_of("org/private", token=TOKEN).returncode == 0
    refused = plan_of("org/private")
    assert refused.returncode == 4
    assert "HF_TOKEN" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["org/nothing"], 4, "org/nothing is neither a directory nor a model on the hub"),
        ([REPOSITORY, "--revision", "gone"], 4, "a model on the hub (404)"),
        (["./nowhere/at/all"], 2, "neither a directory nor a hub id"),
        (["org/adapter"], 2, "org/adapter has no config.json"),
        (["org/pickled"], 2, "no weights in safetensors"),
    ],
)
def test_what_is_no_base_is_refused_in_one_line(plan_of: PlanOf, arguments: list[str], code: int, reason: str) -> None:
    refused = plan_of(*arguments)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert reason in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_hub_that_is_down_is_named_as_the_reason(plan_of: PlanOf) -> None:
    refused = plan_of(REPOSITORY, endpoint="http://127.0.0.1:9")
    assert refused.returncode == 3
    assert "the hub could not be reached for org/base" in refused.stderr
