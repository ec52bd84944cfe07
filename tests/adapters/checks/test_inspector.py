"""Uploads are looked at in processes of their own: with the same answers, and none that harms us."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.base_model import BaseModel
from adapters.checks.canonicalizer import canonicalize
from adapters.checks.inspection import AdapterLimits
from adapters.checks.inspector import Inspector
from adapters.errors import AdapterRefused, AdapterTooCostly, WorkerProcessDied
from adapters.processes.child import child_environment
from adapters.processes.limits import ResourceLimits
from adapters.storage.manifest import FILES
from tests.adapters.checks.conftest import LIMITS, TIED_BASE, MakeAdapter

AMPLE = ResourceLimits(memory_bytes=1 << 30, cpu_s=60, wall_s=300.0)
BASE = replace(TIED_BASE, dtype="BF16")
Q0_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
async def inspector() -> AsyncIterator[Inspector]:
    async with aclosing(Inspector()) as inspector:
        yield inspector


async def test_it_finds_and_makes_what_is_found_and_made_here(
    inspector: Inspector, plain: MakeAdapter, tmp_path: Path
) -> None:
    source = plain(alpha_pattern={"q_proj": 0.3}, use_rslora=True).write(tmp_path / "came")
    here = canonicalize(source, tmp_path / "here", BASE, LIMITS)
    there = await inspector.canonicalize(source, tmp_path / "there", BASE, LIMITS, AMPLE)
    assert there == here
    assert all((tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes() for name in FILES)
    again = await inspector.canonicalize(tmp_path / "there", tmp_path / "again", BASE, LIMITS, AMPLE)
    assert (again.compiled, again.report) == (None, there.report)


async def test_a_refusal_has_its_faults(inspector: Inspector, plain: MakeAdapter, tmp_path: Path) -> None:
    files = plain(bias="all")
    del files.tensors[Q0_A]
    source = files.write(tmp_path / "came")
    with pytest.raises(AdapterRefused) as here:
        canonicalize(source, tmp_path / "out", BASE, LIMITS)
    with pytest.raises(AdapterRefused) as there:
        await inspector.canonicalize(source, tmp_path / "out", BASE, LIMITS, AMPLE)
    assert there.value.faults == here.value.faults


@pytest.mark.parametrize(
    ("pattern", "needed"),
    [
        (r".*\.(?:q|v)_proj", None),
        ("(?:[a-z_.0-9]+)+!", "without repetitions inside of repetitions"),
        ("(", "compiles"),
    ],
    ids=["good", "slow", "broken"],
)
async def test_a_pattern_over_all_modules_is_matched_there_too(
    inspector: Inspector, plain: MakeAdapter, tmp_path: Path, pattern: str, needed: str | None
) -> None:
    source = plain(target_modules=pattern).write(tmp_path / "came")
    if needed is None:
        assert (await inspector.canonicalize(source, tmp_path / "out", BASE, LIMITS, AMPLE)).report.modules == 4
        return
    with pytest.raises(AdapterRefused) as refused:
        await inspector.canonicalize(source, tmp_path / "out", BASE, LIMITS, AMPLE)
    (fault,) = refused.value.faults
    assert fault.where == "adapter_config.json: target_modules"
    assert needed in fault.needed


async def test_many_are_looked_at_at_once_and_one_that_exceeds_its_share_harms_no_other(
    inspector: Inspector, plain: MakeAdapter, tmp_path: Path
) -> None:
    sources = [plain(lora_alpha=alpha).write(tmp_path / f"came{alpha}") for alpha in range(1, 9)]
    bomb = bomb_in(tmp_path / "bomb")
    limits = AdapterLimits(max_rank=1 << 16, max_bytes=1 << 40)
    outs = [tmp_path / f"out{number}" for number in range(len(sources))]
    work = [inspector.canonicalize(source, out, BASE, LIMITS, AMPLE) for source, out in zip(sources, outs, strict=True)]
    short = replace(AMPLE, cpu_s=1)
    done = await asyncio.gather(
        inspector.canonicalize(bomb, tmp_path / "never", BASE, limits, short), *work, return_exceptions=True
    )
    assert isinstance(done[0], AdapterTooCostly)
    assert "1 seconds of a core" in str(done[0])
    assert [found.compiled.method for found in done[1:]] == ["folded"] * 7 + ["as is"]


def bomb_in(directory: Path) -> Path:
    """Zeros without end: terabytes to look at, and nothing of them on the disk."""
    directory.mkdir()
    rank, size = 1 << 16, (1 << 16) * 16 * 4
    module = "base_model.model.model.layers.{}.self_attn.q_proj"
    tensors = {
        f"{module.format(layer)}.lora_{side}.weight": {
            "dtype": "F32",
            "shape": [rank, 16] if side == "A" else [16, rank],
            "data_offsets": [at * size, (at + 1) * size],
        }
        for at, (layer, side) in enumerate((layer, side) for layer in range(1000) for side in "AB")
    }
    raw = json.dumps(tensors).encode()
    with (directory / "adapter_model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + len(tensors) * size)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 1, "target_modules": ["q_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize(
    ("resource_limits", "limit"),
    [
        (replace(AMPLE, memory_bytes=1 << 20), "1 MiB of memory"),
        (replace(AMPLE, wall_s=0.001), r"0\.001 seconds"),
    ],
)
async def test_what_takes_more_than_its_share_is_told_so(
    resource_limits: ResourceLimits, limit: str, inspector: Inspector, tmp_path: Path
) -> None:
    limits = AdapterLimits(max_rank=1 << 16, max_bytes=1 << 40)
    with pytest.raises(AdapterTooCostly, match=limit):
        await inspector.canonicalize(bomb_in(tmp_path / "bomb"), tmp_path / "out", BASE, limits, resource_limits)


async def test_it_comes_back_after_its_process_was_killed_and_says_so_to_whom_it_concerned(
    inspector: Inspector, plain: MakeAdapter, tmp_path: Path
) -> None:
    limits = AdapterLimits(max_rank=1 << 16, max_bytes=1 << 40)
    await inspector.start(BASE)
    assert inspector.process_id is not None
    working = asyncio.create_task(
        inspector.canonicalize(bomb_in(tmp_path / "bomb"), tmp_path / "never", BASE, limits, AMPLE)
    )
    await asyncio.wait({working}, timeout=0.5)
    os.kill(inspector.process_id, signal.SIGKILL)
    with pytest.raises(WorkerProcessDied):
        await working
    source = plain().write(tmp_path / "came")
    assert (await inspector.canonicalize(source, tmp_path / "out", BASE, LIMITS, AMPLE)).compiled is not None


async def test_another_base_model_is_inspected_for_next(
    inspector: Inspector, plain: MakeAdapter, untied_base: BaseModel, tmp_path: Path
) -> None:
    source = plain().write(tmp_path / "came")
    for base in (BASE, untied_base, BASE):
        out = tmp_path / "out"
        assert (await inspector.canonicalize(source, out, base, LIMITS, AMPLE)).report.base_model == base.name


async def test_it_gets_no_secret_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "PATCHBAY_API_KEY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "secret")
    async with aclosing(Inspector()) as inspector:
        await inspector.start(BASE)
        seen = Path(f"/proc/{inspector.process_id}/environ").read_text()
    assert "secret" not in seen
    names = {line.partition("=")[0] for line in seen.split("\0") if line}
    assert names <= {*child_environment(threads=1), "LC_CTYPE"}


async def test_a_cancelled_caller_leaves_the_others_their_answers(
    inspector: Inspector, plain: MakeAdapter, tmp_path: Path
) -> None:
    source = plain().write(tmp_path / "came")
    tasks = [
        asyncio.create_task(inspector.canonicalize(source, tmp_path / f"out{n}", BASE, LIMITS, AMPLE)) for n in range(4)
    ]
    await asyncio.sleep(0)
    tasks[0].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert all(found.report.rank == 8 for found in done[1:])
