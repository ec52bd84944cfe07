"""LoRA of whole layers on the CPU: vLLM's own layers write the slots; a plain loop over rows is the reference."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vllm.config.lora import LoRAConfig
from vllm.lora.layers import LogitsProcessorWithLoRA, LoRAMapping, VocabParallelEmbeddingWithLoRA
from vllm.lora.layers.column_parallel_linear import MergedColumnParallelLinearWithLoRA

from server.engine.vllm.cpu.lora.blocks import LONG, split_rows
from server.engine.vllm.cpu.lora.wrapper import DenseWrapper
from server.engine.vllm.patches import _set_mapping

SLOTS, RANK, HIDDEN, VOCABULARY = 4, 8, 24, 40
WIDTHS = ((12,), (12, 12), (16, 8, 8), (8, 8, 8))
MOST_ROWS = 2 * LONG // RANK

Runs = list[tuple[int, int]]
"""Slot and number of rows, −1 for the base model."""
Adapter = tuple[list[Tensor], list[Tensor]]


def config(dtype: torch.dtype) -> LoRAConfig:
    return LoRAConfig(max_lora_rank=RANK, max_loras=SLOTS, lora_dtype=dtype)


def wrapper(dtype: torch.dtype) -> DenseWrapper:
    return DenseWrapper(MOST_ROWS, MOST_ROWS, device="cpu", lora_config=config(dtype))


def bare(kind: type, **attributes: object) -> torch.nn.Module:
    """Return a layer of vLLM with empty slots and without a base, which takes a whole engine."""
    layer = kind.__new__(kind)
    torch.nn.Module.__init__(layer)
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


def linear(step: DenseWrapper, widths: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    layer = bare(
        MergedColumnParallelLinearWithLoRA,
        input_size=HIDDEN,
        output_slices=tuple(widths),
        n_slices=len(widths),
        tp_size=1,
        device="cpu",
    )
    layer.create_lora_weights(SLOTS, config(dtype))
    _set_mapping(layer, step)
    return layer


def adapter(seed: int, widths: Sequence[int], rank: int = RANK, dtype: torch.dtype = torch.float32) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    down = [torch.randn(rank, HIDDEN, generator=generator).to(dtype) for _ in widths]
    return down, [torch.randn(width, rank, generator=generator).to(dtype) for width in widths]


def start_step(step: DenseWrapper, slots: Sequence[int], sampled: Sequence[int] = ()) -> None:
    """Start a step of rows that use ``slots``; the adapter in slot n has id n + 1."""
    mapping = LoRAMapping(tuple(slot + 1 for slot in slots), tuple(slot + 1 for slot in sampled), is_prefill=True)
    step.update_metadata(mapping, list(range(1, SLOTS + 1)), SLOTS + 1, VOCABULARY)


def rows(count: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)


def add(layer: torch.nn.Module, inputs: Tensor, before: Tensor) -> Tensor:
    output = before.clone()
    layer._apply_lora_to_output(inputs, output)
    return output


def expected(adapters: dict[int, Adapter], slots: Sequence[int], inputs: Tensor, before: Tensor) -> Tensor:
    output = before.double()
    for slot, (down, up) in adapters.items():
        own = torch.tensor(slots) == slot
        parts = [inputs[own].double() @ a.double().T @ b.double().T for a, b in zip(down, up, strict=True)]
        output[own] += torch.cat(parts, dim=1)
    return output


RUNS = st.lists(st.tuples(st.integers(-1, SLOTS - 1), st.sampled_from([1, 2, 5, LONG // RANK])), min_size=1, max_size=9)


@settings(max_examples=50, deadline=None)
@given(
    runs=RUNS,
    widths=st.sampled_from(WIDTHS),
    written=st.sets(st.integers(0, SLOTS - 1)),
    rank=st.sampled_from([1, 3, RANK]),
)
def test_each_row_gets_its_own_slot_s_adapter_and_base_rows_stay_exact(
    runs: Runs, widths: tuple[int, ...], written: set[int], rank: int
) -> None:
    slots = [slot for slot, count in runs for _ in range(count)][:MOST_ROWS]
    step = wrapper(torch.float32)
    layer = linear(step, widths)
    adapters = {slot: adapter(slot, widths, rank) for slot in written}
    for slot, (down, up) in adapters.items():
        layer.set_lora(slot, *adapter(99, widths))  # nothing of it may be left
        layer.set_lora(slot, down, up)
    start_step(step, slots)
    inputs, before = rows(len(slots), HIDDEN), rows(len(slots), sum(widths), 1)
    output = add(layer, inputs, before)
    assert torch.allclose(output.double(), expected(adapters, slots, inputs, before), atol=1e-3)
    base = torch.tensor(slots) < 0
    assert torch.equal(output[base], before[base])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("widths", WIDTHS)
def test_half_precision_is_exact_to_its_last_bit(widths: tuple[int, ...], dtype: torch.dtype) -> None:
    slots = [0, 3, -1, 1, 1, 2]
    step = wrapper(dtype)
    layer = linear(step, widths, dtype)
    adapters = {slot: adapter(slot, widths, dtype=dtype) for slot in range(SLOTS)}
    for slot, (down, up) in adapters.items():
        layer.set_lora(slot, down, up)
    start_step(step, slots)
    inputs, before = rows(len(slots), HIDDEN, dtype=dtype), rows(len(slots), sum(widths), 1, dtype)
    truth = expected(adapters, slots, inputs, before)
    assert (add(layer, inputs, before) - truth).abs().max() <= truth.abs().max() * torch.finfo(dtype).eps


@pytest.mark.parametrize("spoil", [torch.nan, torch.inf])
@pytest.mark.parametrize("side", [0, 1], ids=["A", "B"])
def test_what_is_not_finite_in_one_slot_stays_with_its_own_rows(side: int, spoil: float) -> None:
    slots = [0, 2, -1, 1, 2, 0, 3]
    step = wrapper(torch.float32)
    layer = linear(step, (16, 8, 8))
    for slot in range(SLOTS):
        layer.set_lora(slot, *adapter(slot, (16, 8, 8)))
    start_step(step, slots)
    inputs, before = rows(len(slots), HIDDEN), rows(len(slots), 32, 1)
    sound = add(layer, inputs, before)
    broken = adapter(2, (16, 8, 8))
    broken[side][1][3, 3] = spoil
    layer.set_lora(2, *broken)
    output = add(layer, inputs, before)
    own = torch.tensor(slots) == 2
    assert torch.allclose(output[~own], sound[~own])
    assert not output[own].isfinite().all(dim=1).any()
    layer.set_lora(2, *adapter(2, (16, 8, 8)))
    assert torch.equal(add(layer, inputs, before), sound)


def test_an_adapter_that_could_not_be_written_whole_leaves_nothing_behind() -> None:
    step = wrapper(torch.float32)
    layer = linear(step, (12,))
    down, up = adapter(1, (12,))
    with pytest.raises(RuntimeError):
        layer.set_lora(1, down, [torch.ones(13, RANK)])
    layer.reset_lora(1)
    assert not any(part.any() for part in (*layer.lora_a_stacked, *layer.lora_b_stacked))
    layer.set_lora(0, down, up)
    layer.reset_lora(0)
    start_step(step, [0, 1])
    before = rows(2, 12)
    assert torch.equal(add(layer, rows(2, HIDDEN), before), before)


def test_sampled_rows_and_a_prompt_s_rows_get_logits_of_their_own_slots() -> None:
    step = wrapper(torch.float32)
    layer = bare(
        LogitsProcessorWithLoRA,
        base_layer=SimpleNamespace(vocab_size=VOCABULARY),
        hidden_size=HIDDEN,
        device="cpu",
        sharded_to_full_mapping=None,
    )
    layer.create_lora_weights(SLOTS, config(torch.float32))
    _set_mapping(layer, step)
    adapters = {slot: adapter(slot, (VOCABULARY,)) for slot in (1, 2)}
    for slot, ((down,), (up,)) in adapters.items():
        layer.set_lora(slot, down, up)
    tokens = [1, 1, -1, 2, 2, 2]
    start_step(step, tokens, sampled=(1, -1, 2))
    hidden = rows(len(tokens), HIDDEN)

    def logits(inputs: Tensor) -> Tensor:
        output = torch.zeros(len(inputs), VOCABULARY + 3)  # padded, as vLLM's are
        step.add_lora_logits(output, inputs, layer.lora_a_stacked, layer.lora_b_stacked, 1.0)
        assert not output[:, VOCABULARY:].any()
        return output[:, :VOCABULARY].double()

    def right(inputs: Tensor, slots: list[int]) -> Tensor:
        return expected(adapters, slots, inputs, torch.zeros(len(inputs), VOCABULARY))

    sampled = hidden[torch.tensor([1, 2, 5])]
    assert torch.allclose(logits(sampled), right(sampled, [1, -1, 2]), atol=1e-4)
    for first, last in ((0, 2), (2, 3), (3, 6), (3, 5), (5, 6)):  # 3 rows: as many as sampled
        of_prompt = hidden[first:last]
        assert torch.allclose(logits(of_prompt), right(of_prompt, tokens[first:last]), atol=1e-4)


def test_logits_of_a_wider_dtype_than_the_adapters_get_them_too() -> None:
    step = wrapper(torch.bfloat16)
    layer = linear(step, (12,), torch.bfloat16)
    adapters = {0: adapter(0, (12,), dtype=torch.bfloat16)}
    layer.set_lora(0, *adapters[0])
    start_step(step, [0, -1])
    inputs, before = rows(2, HIDDEN, dtype=torch.bfloat16).float(), torch.zeros(2, 12)
    assert torch.allclose(
        add(layer, inputs, before).double(), expected(adapters, [0, -1], inputs, before), rtol=0.02, atol=0.1
    )


def test_embeddings_get_their_own_slot_s_adapter() -> None:
    step = wrapper(torch.float32)
    base = SimpleNamespace(org_vocab_size=VOCABULARY, embedding_dim=16, weight=torch.zeros(1))
    layer = bare(VocabParallelEmbeddingWithLoRA, base_layer=base)
    layer.create_lora_weights(SLOTS, config(torch.float32))
    _set_mapping(layer, step)
    ups = {}
    for slot in (0, 3):
        ups[slot] = rows(16, RANK, slot)
        layer.set_lora(slot, rows(RANK, VOCABULARY, slot + 10), ups[slot])
    slots = [0, 3, -1, 1, 3]
    start_step(step, slots)
    before, shrunk = rows(5, 16), rows(5, RANK, 1)
    output = before.clone()
    step.add_lora_embedding(output, shrunk, layer.lora_b_stacked, add_input=True)
    for row, slot in enumerate(slots):
        added = ups[slot] @ shrunk[row] if slot in ups else torch.zeros(16)
        assert torch.allclose(output[row], before[row] + added, atol=1e-5)


@given(runs=RUNS)
def test_blocks_cover_each_row_with_an_adapter_once_and_long_runs_stand_alone(runs: Runs) -> None:
    slots = [slot for slot, count in runs for _ in range(count)]
    blocks = split_rows(slots, RANK)
    covered = [row for block in blocks for row in range(block.start, block.stop)]
    assert covered == sorted(set(covered))
    assert {row for row, slot in enumerate(slots) if slot >= 0} <= set(covered)
    used = {slot for slot in slots if slot >= 0}
    for block in blocks:
        longest = max(run.stop - run.start for run in block.runs)
        assert block.is_one_slot or longest * (max(used) - min(used)) * RANK < LONG
