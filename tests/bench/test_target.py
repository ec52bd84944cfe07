"""Both servers are started alike, and nothing of them is left."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from bench.target import ServerConfig, free_port, patchbay_command, run_server, stock_command

CONFIG = ServerConfig(Path("base"), 4, 16, 64, {"a0": Path("adapters/a0")}, ("--enforce-eager",))


def test_both_get_the_same_engine_flags() -> None:
    ours, theirs = patchbay_command(CONFIG, 1, Path("data")), stock_command(CONFIG, 2)
    for flags in (ours, theirs):
        assert set(CONFIG.engine_flags) <= set(flags)
    for flag, value in (("--max-loras", "4"), ("--max-lora-rank", "64")):
        assert ours[ours.index(flag) + 1] == theirs[theirs.index(flag) + 1] == value
    assert ours[ours.index("--max-residents") + 1] == theirs[theirs.index("--max-cpu-loras") + 1] == "16"


@pytest.mark.parametrize(("rank", "limit"), [(1, "8"), (8, "8"), (12, "16"), (64, "64")])
def test_the_limit_of_ranks_is_one_that_vllm_takes(rank: int, limit: str) -> None:
    flags = ServerConfig(Path("base"), 1, 2, rank).engine_flags
    assert flags[flags.index("--max-lora-rank") + 1] == limit


def test_stock_vllm_is_stock_although_our_plugins_are_installed_beside_it() -> None:
    command = stock_command(CONFIG, 2)
    assert "VLLM_PLUGINS=" in command[: command.index(sys.executable)]
    assert command[-1] == "a0=adapters/a0"


async def test_a_server_that_ends_instead_of_answering_is_reported_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    async with run_server(command, "vllm", free_port(), tmp_path / "log") as target:
        with pytest.raises(RuntimeError, match="no such model"):
            await target.until_ready()


async def test_what_a_server_started_ends_with_it(tmp_path: Path) -> None:
    child = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    log = tmp_path / "log"
    async with run_server([sys.executable, "-c", child], "vllm", free_port(), log) as target:
        while not log.read_text().strip():
            assert target.process.poll() is None
    while state_of(int(log.read_text())) not in {"gone", "Z"}:
        await asyncio.sleep(0.01)


def state_of(pid: int) -> str:
    """Return the letter of a process; a killed one may wait for its parent as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"
