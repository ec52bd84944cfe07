"""An adapter is on the device before vLLM writes its slot, and the host keeps its own copy."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from vllm.lora.lora_weights import LoRALayerWeights, PackedLoRALayerWeights

import embedded
from server.engine.protocol import Engine, Resident
from server.engine.vllm import flags
from server.engine.vllm.builder import VllmBuilder
from server.engine.vllm.device_copies import DeviceCopies, SideStream, copier_for
from tests.server.engine.conftest import RecordingHooks


def factor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape).to(dtype)


def model() -> SimpleNamespace:
    """An adapter as vLLM packs it: a layer of one slice, and one of three, of which the adapter has two."""
    plain = LoRALayerWeights("o", 4, 8, factor(4, 6), factor(5, 4, dtype=torch.float32))
    strided = factor(4, 3).t()
    packed = PackedLoRALayerWeights(
        "qkv", 4, [8, 8, 8], [factor(4, 6), None, factor(4, 6)], [factor(7, 4), None, strided]
    )
    return SimpleNamespace(id=1, loras={"o": plain, "qkv": packed})


def tensors(adapter: SimpleNamespace) -> list[torch.Tensor]:
    factors = [part for weights in adapter.loras.values() for part in (weights.lora_a, weights.lora_b)]
    return [t for part in factors for t in (part if isinstance(part, list) else [part]) if t is not None]


def hold_the_same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(some, others, strict=True))


def test_copies_replace_the_factors_while_a_slot_is_written() -> None:
    adapter = model()
    own = tensors(adapter)
    copies = DeviceCopies(adapter, "cpu")
    with copies.in_place():
        held = tensors(adapter)
        assert hold_the_same(held, own)
        assert not {copy.data_ptr() for copy in held} & {mine.data_ptr() for mine in own}
    assert all(one is other for one, other in zip(tensors(adapter), own, strict=True))


def test_a_failed_write_of_a_slot_leaves_the_adapter_its_own_factors() -> None:
    adapter = model()
    own = tensors(adapter)
    with pytest.raises(ValueError, match="no free slot"), DeviceCopies(adapter, "cpu").in_place():
        raise ValueError("no free slot")
    assert all(one is other for one, other in zip(tensors(adapter), own, strict=True))


def test_a_device_without_memory_of_its_own_needs_no_copies() -> None:
    assert copier_for(torch.device("cpu")) is None


def test_an_adapter_without_device_memory_is_written_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.Stream", lambda _: None)
    monkeypatch.setattr("torch.cuda.stream", nullcontext)
    attempts: list[object] = []

    def full(*arguments: object) -> DeviceCopies:
        attempts.append(arguments)
        raise torch.OutOfMemoryError

    monkeypatch.setattr("server.engine.vllm.device_copies.DeviceCopies", full)
    stream = SideStream("cuda")
    assert stream.copy(model()) is None
    assert stream.copy(model()) is None
    assert len(attempts) == 1  # each further try would halt the device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA's streams and allocator: needs an NVIDIA GPU")
def test_a_side_stream_copies_what_the_computing_stream_reads() -> None:
    adapter = model()
    own = [part.clone() for part in tensors(adapter)]
    side = SideStream("cuda")
    for _ in range(20):
        copies = side.copy(adapter)
        assert copies is not None
        with copies.in_place():
            torch.cuda._sleep(10_000_000)  # the computing stream is behind: memory given back too early is overwritten
            slots = [part.clone() for part in tensors(adapter)]
        side.release(copies)
        del copies
        side.copy(model())  # would take the same memory
        assert hold_the_same(slots, own)


@pytest.fixture
async def copying_engine(monkeypatch: pytest.MonkeyPatch, hooks: RecordingHooks) -> AsyncIterator[Engine]:
    """The real engine with one slot; its worker copies zeros in place of the adapter."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(flags, "WORKER_EXTENSION", "copying_worker.CopyingWorker")
    engine_flags = (*flags.EMBEDDED_FLAGS, "--kv-cache-memory-bytes", str(16 * 2**20), "--max-loras", "1")
    async with VllmBuilder(str(embedded.BASE), engine_flags, capacity=4).start(hooks) as engine:
        yield engine


async def test_vllm_writes_a_slot_from_the_copies_and_writes_it_again_from_the_host(
    copying_engine: Engine, tmp_path: Path
) -> None:
    one, other = (
        Resident(number, f"sql@{number}", Path(shutil.copytree(embedded.ADAPTERS / "sql", tmp_path / str(number))))
        for number in (1, 2)
    )
    prompts = [copying_engine.encode("List the author of books with a year above 17.")]
    base = await copying_engine.score(None, prompts)
    await copying_engine.load(one)
    assert await copying_engine.score(one, prompts) == base  # zeros
    await copying_engine.load(other)  # takes the only slot
    assert await copying_engine.score(one, prompts) != base  # back from the host, as it was sent
