"""`patchbay plan`: sizes from a base model's files, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from server.cli import app
from server.slot_plan import ALWAYS, Plan, Shapes

LARGE = Shapes(linear=2_600_000, vocabulary=264_704, weights=8_030_000_000, kv_numbers=2 * 32 * 8 * 128)
"""A base model of eight billion parameters."""


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


def of_large(**changes: Any) -> Plan:
    return Plan(**{"shapes": LARGE, "slots": 8, "rank": 16, "residents": 64, "host": 32 * 2**30, **changes})


def test_the_embedded_base_is_planned_for_where_none_is_named() -> None:
    told = json.loads(plan("--json", "--max-loras", "4", "--max-lora-rank", "8").stdout)
    assert (told["slots"], told["rank"]) == (4, 8)
    assert told["slot_bytes"] == told["slot_kv_tokens"] * told["kv_bytes_per_token"]
    assert told["weights_bytes"] > told["slot_bytes"] > 0


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
    assert of_large(host=2**30).to_json()["recommended_residents"] == 2**30 // of_large().resident_bytes == 12


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
