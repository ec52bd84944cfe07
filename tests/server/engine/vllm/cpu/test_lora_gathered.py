"""The corrected CPU LoRA operations beside vLLM's own: the same for rows with adapters, nothing for rows without."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from vllm.lora.ops.torch_ops import lora_ops as stock

from server.engine.vllm.cpu.lora import gathered

TOKENS, SLOTS, HIDDEN, RANK, OUT = 6, 3, 16, 4, 10
MIXED = torch.tensor([0, -1, 2, 1, -1, 2])
ADAPTED = MIXED.clamp(min=0)
BASE_ROWS = MIXED < 0
LENGTHS = torch.tensor([2, 1, 3])
BY_SEQUENCE = torch.tensor([1, -1, 2])
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

pytestmark = pytest.mark.parametrize("is_4d", [False, True], ids=["3d", "4d"])


def tensors(rows: int, columns: int, dtype: torch.dtype, is_4d: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs [T, columns] and weights [S, (1,) rows, columns]."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(SLOTS, rows, columns, generator=generator).to(dtype)
    return torch.randn(TOKENS, columns, generator=generator).to(dtype), weights.unsqueeze(1) if is_4d else weights


def before(columns: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(TOKENS, columns, generator=torch.Generator().manual_seed(2)).to(dtype)


def shrink(
    ops: ModuleType, slots: torch.Tensor, output: torch.Tensor, inputs: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    ops.bgmv_shrink(inputs, weights, output, slots, 0.5)
    return output


def expand(
    ops: ModuleType, slots: torch.Tensor, output: torch.Tensor, inputs: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    ops.bgmv_expand(inputs, weights, output, slots, True)
    return output


def expand_slice(
    ops: ModuleType, slots: torch.Tensor, output: torch.Tensor, inputs: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    ops.bgmv_expand_slice(inputs, weights, output, slots, 3, OUT, True)
    return output


Act = Callable[[ModuleType, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Runs one operation of a module; returns its output."""

CASES = [
    pytest.param(shrink, (RANK, HIDDEN), RANK + 2, id="shrink"),
    pytest.param(expand, (OUT, RANK), OUT + 5, id="expand"),
    pytest.param(expand, (OUT, RANK), OUT - 2, id="expand-padded-weights"),
    pytest.param(expand_slice, (OUT, RANK), OUT + 5, id="expand-slice"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("act", "shape", "width"), CASES)
def test_rows_with_adapters_are_vllm_s_to_the_bit(
    act: Act, shape: tuple[int, int], width: int, dtype: torch.dtype, is_4d: bool
) -> None:
    inputs, weights = tensors(*shape, dtype, is_4d)
    ours = act(gathered, ADAPTED, before(width, dtype), inputs, weights)
    theirs = act(stock, ADAPTED, before(width, dtype), inputs, weights)
    assert torch.equal(ours, theirs)
    mixed = act(gathered, MIXED, before(width, dtype), inputs, weights)
    assert torch.equal(mixed[~BASE_ROWS], theirs[~BASE_ROWS])


@pytest.mark.parametrize(("act", "shape", "width"), CASES)
def test_rows_of_the_base_get_nothing_where_vllm_gives_them_the_last_adapter(
    act: Act, shape: tuple[int, int], width: int, is_4d: bool
) -> None:
    inputs, weights = tensors(*shape, torch.float32, is_4d)
    untouched = before(width)
    if act is shrink:
        untouched[:, :RANK] = 0
    ours = act(gathered, MIXED, before(width), inputs, weights)
    assert torch.equal(ours[BASE_ROWS], untouched[BASE_ROWS])
    theirs = act(stock, MIXED, before(width), inputs, weights)
    assert not torch.equal(theirs[BASE_ROWS], untouched[BASE_ROWS])


@pytest.mark.parametrize(("act", "shape", "width"), CASES)
def test_a_nan_in_one_slot_stays_with_its_own_rows(act: Act, shape: tuple[int, int], width: int, is_4d: bool) -> None:
    inputs, weights = tensors(*shape, torch.float32, is_4d)
    for slot in range(SLOTS):
        spoiled = weights.clone()
        spoiled[slot] = torch.nan
        output = act(gathered, MIXED, before(width), inputs, spoiled)
        others = slot != MIXED
        assert torch.equal(output[others], act(gathered, MIXED, before(width), inputs, weights)[others])
        assert output[~others].isnan().any()


def test_one_slot_a_sequence_is_one_slot_a_token(is_4d: bool) -> None:
    by_token = torch.repeat_interleave(BY_SEQUENCE, LENGTHS)
    rest = (torch.tensor([0, 2, 3]), LENGTHS, BY_SEQUENCE, len(LENGTHS), 3, TOKENS)
    inputs, weights = tensors(RANK, HIDDEN, torch.float32, is_4d)
    output = before(RANK)
    gathered.OPERATIONS["sgmv_shrink"](inputs, weights, output, *rest, 0.5)
    assert torch.equal(output, shrink(gathered, by_token, before(RANK), inputs, weights))
    inputs, weights = tensors(OUT, RANK, torch.float32, is_4d)
    output = before(OUT)
    gathered.OPERATIONS["sgmv_expand"](inputs, weights, output, *rest, True)
    assert torch.equal(output, expand(gathered, by_token, before(OUT), inputs, weights))
    output = before(OUT + 5)
    gathered.OPERATIONS["sgmv_expand_slice"](inputs, weights, output, *rest, 3, OUT, True)
    assert torch.equal(output, expand_slice(gathered, by_token, before(OUT + 5), inputs, weights))


def test_an_expansion_that_does_not_add_replaces(is_4d: bool) -> None:
    inputs, weights = tensors(OUT, RANK, torch.float32, is_4d)
    ours, theirs = before(OUT), before(OUT)
    gathered.bgmv_expand(inputs, weights, ours, ADAPTED, False)
    stock.bgmv_expand(inputs, weights, theirs, ADAPTED, False)
    assert torch.equal(ours, theirs)


def test_one_slot_for_all_rows(is_4d: bool) -> None:
    inputs, weights = tensors(RANK, HIDDEN, torch.float32, is_4d)
    for slot in (torch.tensor([1]), torch.tensor([-1])):
        one = shrink(gathered, slot, before(RANK), inputs, weights)
        assert torch.equal(one, shrink(gathered, slot.expand(TOKENS), before(RANK), inputs, weights))
