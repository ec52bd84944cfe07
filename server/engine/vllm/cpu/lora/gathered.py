"""vLLM's LoRA operations for CPUs, corrected: each row gathers its own slot's weights; base rows stay untouched.

vLLM marks a row without adapter with slot −1. Its torch operations (0.28 to 0.32) index the stacked weights with it,
and −1 is the last slot: in a mixed batch, rows of the base model get the adapter there. GPU kernels skip them.

Shapes: T tokens, S slots, H hidden, r rank, O out. ``slots`` is [T] (or [1], for all rows), −1 where a row has no
adapter; weights are [S, r, H] to shrink and [S, O, r] to expand, some layers with an extra dimension of size 1 after S.
"""

# ruff: noqa: FBT001, FBT002  vLLM's signatures

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Operation = Callable[..., None]


def _products(inputs: Tensor, weights: Tensor, slots: Tensor, like: Tensor) -> Tensor:
    """Return each row's product with its own slot's weights, in the dtype of ``like``; zero for rows of slot −1.

    ``where`` rather than a multiplication by zero: a NaN in some slot must not reach the rows that do not use it.
    """
    chosen = weights[slots.clamp(min=0)].to(like.dtype)
    if chosen.dim() == 4:
        chosen = chosen.squeeze(1)
    products = torch.einsum("ti,toi->to", inputs.to(like.dtype), chosen)
    return torch.where((slots >= 0).unsqueeze(1), products, 0)


def bgmv_shrink(inputs: Tensor, weights: Tensor, output: Tensor, slots: Tensor, scaling: float = 1.0) -> None:
    """``output[:, :r] = scaling · inputs @ weightsᵀ`` by slot; inputs [T, H], output [T, ≥ r]."""
    products = _products(inputs, weights, slots, output)
    output[:, : products.shape[1]] = scaling * products


def bgmv_expand(inputs: Tensor, weights: Tensor, output: Tensor, slots: Tensor, add_inputs: bool = True) -> None:
    """``output += inputs @ weightsᵀ`` by slot, on the columns both have; inputs [T, r], output [T, ~O]."""
    bgmv_expand_slice(inputs, weights, output, slots, 0, min(weights.shape[-2], output.shape[1]), add_inputs)


def bgmv_expand_slice(
    inputs: Tensor, weights: Tensor, output: Tensor, slots: Tensor, offset: int, size: int, add_inputs: bool = True
) -> None:
    """``output[:, offset:offset+size] += inputs @ weightsᵀ`` by slot."""
    products = _products(inputs, weights, slots, output)[:, :size]
    part = output[: products.shape[0], offset : offset + size]
    if add_inputs:
        part += products
    else:
        part.copy_(products)


def _by_sequence(operation: Operation) -> Operation:
    """Return ``operation`` with one slot for each sequence instead of each token, and vLLM's arguments for that."""

    def by_sequence(inputs: Tensor, weights: Tensor, output: Tensor, *metadata: Any) -> None:
        _starts, lengths, slots, _batches, _longest, _tokens, *rest = metadata
        operation(inputs, weights, output, slots.repeat_interleave(lengths), *rest)

    return by_sequence


_BY_TOKEN: tuple[Operation, ...] = (bgmv_shrink, bgmv_expand, bgmv_expand_slice)
OPERATIONS = {operation.__name__: operation for operation in _BY_TOKEN} | {
    operation.__name__.replace("bgmv", "sgmv"): _by_sequence(operation) for operation in _BY_TOKEN
}
"""By their names in vLLM's wrapper."""
