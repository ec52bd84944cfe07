"""The compiler as a process of its own: its answers, its limits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from peft import HRAConfig

import embedded
from adapters.compile.adapter_compiler import AdapterCompiler
from adapters.errors import AdapterRefused, AdapterTooCostly, WorkerProcessDied
from adapters.lora.canonical_form import CompileReport
from adapters.processes.limits import ResourceLimits
from adapters.storage.manifest import CONFIG_FILE, FILES, WEIGHTS_FILE

AMPLE = ResourceLimits(memory_bytes=2 << 30, cpu_s=300, wall_s=500)
ADAPTER = sorted(embedded.ADAPTERS.iterdir())[0]


Run = Callable[..., Awaitable[CompileReport]]


@pytest.fixture(scope="module")
async def compiler() -> AsyncIterator[AdapterCompiler]:
    async with aclosing(AdapterCompiler()) as compiler:
        yield compiler


@pytest.fixture
def run(compiler: AdapterCompiler) -> Run:
    """Compile an adapter; what a test does not say is ample."""

    async def compiled(source: Path, out: Path, **limits: Any) -> CompileReport:
        ample = {"base": embedded.BASE, "max_rank": 16, "compress_to": None, "resource_limits": AMPLE}
        return await compiler.compile(source, out, **ample | limits)

    return compiled


async def test_an_adapter_comes_back_compiled_with_its_report(run: Run, tmp_path: Path) -> None:
    report = await run(ADAPTER, tmp_path / "out", compress_to=4)
    assert (report.kind, report.method, report.rank_before, report.rank) == ("lora", "svd", 8, 4)
    assert {file.name for file in (tmp_path / "out").iterdir()} == set(FILES)


async def test_what_needs_peft_is_compiled_within_the_same_limits(
    run: Run, save: Callable[..., Path], tmp_path: Path
) -> None:
    source = save(HRAConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    report = await run(source, tmp_path / "out")
    assert (report.kind, report.method, report.rank) == ("hra", "exact", 2)


async def test_a_refusal_comes_back_with_its_faults(run: Run, tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("{}")
    with pytest.raises(AdapterRefused) as refused:
        await run(tmp_path, tmp_path / "out")
    assert refused.value.faults[0].where == WEIGHTS_FILE


async def test_an_adapter_that_would_take_too_much_memory_is_stopped(run: Run, tmp_path: Path) -> None:
    with pytest.raises(AdapterTooCostly, match="400 MiB"):
        await run(
            bomb(tmp_path),
            tmp_path / "out",
            resource_limits=ResourceLimits(memory_bytes=400 << 20, cpu_s=300, wall_s=500),
        )


def bomb(directory: Path) -> Path:
    """A LoRA of rank 65536: a small upload where zeros are not stored, hundreds of megabytes once read."""
    config = {"peft_type": "LORA", "r": 65536, "lora_alpha": 1, "target_modules": ["layers.0.self_attn.q_proj"]}
    (directory / CONFIG_FILE).write_text(json.dumps(config))
    size = 65536 * 256 * 4
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    header = {
        f"{module}.lora_A.weight": {"dtype": "F32", "shape": [65536, 256], "data_offsets": [0, size]},
        f"{module}.lora_B.weight": {"dtype": "F32", "shape": [256, 65536], "data_offsets": [size, 2 * size]},
    }
    raw = json.dumps(header).encode()
    with (directory / WEIGHTS_FILE).open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + 2 * size)
    return directory


async def test_an_adapter_that_takes_too_long_is_stopped(run: Run, tmp_path: Path) -> None:
    with pytest.raises(AdapterTooCostly, match=r"0\.5 seconds"):
        await run(
            bomb(tmp_path),
            tmp_path / "out",
            resource_limits=ResourceLimits(memory_bytes=8 << 30, cpu_s=300, wall_s=0.5),
        )


async def test_an_adapter_that_takes_too_much_of_a_core_is_stopped(run: Run, tmp_path: Path) -> None:
    with pytest.raises(AdapterTooCostly, match="1 seconds of a core"):
        await run(
            bomb(tmp_path), tmp_path / "out", resource_limits=ResourceLimits(memory_bytes=8 << 30, cpu_s=1, wall_s=500)
        )


async def test_a_compiler_that_dies_says_so_with_the_end_of_its_log(run: Run, tmp_path: Path) -> None:
    with pytest.raises(WorkerProcessDied, match="failed") as died:
        await run(ADAPTER, tmp_path / "out", base=tmp_path)
    assert "BaseModelUnreadable" in died.value.log
