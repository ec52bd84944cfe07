"""vLLM's CPU LoRA ops, mended: each row gathers its own slot's weights, and rows of the base model stay untouched.

vLLM marks a row without adapter with slot −1. Its torch ops (0.28 to 0.32) index the stacked weights with it, and −1
wraps around to the last slot: in a mixed batch base rows are answered by whatever adapter lies there. GPU kernels skip
them.

Shapes: T tokens, S slots, H hidden, r rank, O out. ``slots`` is [T] (or [1], for all rows), −1 where a row has no
adapter; weights are [S, r, H] to shrink and [S, O, r] to expand, some layers with an extra dimension of size 1 after S.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def _products(inputs: Tensor, weights: Tensor, slots: Tensor, like: Tensor) -> Tensor:
    """Return each row's product with its own slot's weights, in the dtype of ``like``; zero for rows of slot −1.

    ``where`` and not a multiplication by zero: a NaN in some slot must not reach the rows that do not use it.
    """
    import torch

    chosen = weights[slots.clamp(min=0)].to(like.dtype)
    if chosen.dim() == 4:
        chosen = chosen.squeeze(1)
    products = torch.einsum("ti,toi->to", inputs.to(like.dtype), chosen)
    return torch.where((slots >= 0).unsqueeze(1), products, 0)


def bgmv_shrink(inputs: Tensor, weights: Tensor, output: Tensor, slots: Tensor, scaling: float = 1.0) -> None:
    """``output[:, :r] = scaling · inputs @ weightsᵀ`` by slot; inputs [T, H], output [T, ≥ r]."""
    products = _products(inputs, weights, slots, output)
    output[:, : products.shape[1]] = scaling * products


def bgmv_expand(inputs: Tensor, weights: Tensor, output: Tensor, slots: Tensor, add_inputs: bool = True) -> None:  # noqa: FBT001, FBT002  vLLM's signature
    """``output += inputs @ weightsᵀ`` by slot, on the columns both have; inputs [T, r], output [T, ~O]."""
    width = min(weights.shape[-2], output.shape[1])
    bgmv_expand_slice(inputs, weights, output, slots, 0, width, add_inputs)


def bgmv_expand_slice(
    inputs: Tensor,
    weights: Tensor,
    output: Tensor,
    slots: Tensor,
    offset: int,
    size: int,
    add_inputs: bool = True,  # noqa: FBT001, FBT002
) -> None:
    """``output[:, offset:offset+size] += inputs @ weightsᵀ`` by slot."""
    products = _products(inputs, weights, slots, output)[:, :size]
    part = output[: products.shape[0], offset : offset + size]
    if add_inputs:
        part += products
    else:
        part.copy_(products)


def _by_token(slots: Tensor, lengths: Tensor) -> Tensor:
    """Turn one slot a sequence into one slot a token."""
    import torch

    return torch.repeat_interleave(slots, lengths)


def sgmv_shrink(
    inputs: Tensor,
    weights: Tensor,
    output: Tensor,
    _start: Tensor,
    lengths: Tensor,
    slots: Tensor,
    *rest: Any,
) -> None:
    """As ``bgmv_shrink``, with one slot a sequence. ``rest``: batches, longest, tokens, scaling."""
    *_, scaling = rest
    bgmv_shrink(inputs, weights, output, _by_token(slots, lengths), scaling)


def sgmv_expand(
    inputs: Tensor,
    weights: Tensor,
    output: Tensor,
    _start: Tensor,
    lengths: Tensor,
    slots: Tensor,
    *rest: Any,
) -> None:
    """As ``bgmv_expand``, with one slot a sequence. ``rest``: batches, longest, tokens, add_inputs."""
    *_, add_inputs = rest
    bgmv_expand(inputs, weights, output, _by_token(slots, lengths), add_inputs)


def sgmv_expand_slice(
    inputs: Tensor,
    weights: Tensor,
    output: Tensor,
    _start: Tensor,
    lengths: Tensor,
    slots: Tensor,
    *rest: Any,
) -> None:
    """As ``bgmv_expand_slice``, one slot a sequence. ``rest``: batches, longest, tokens, offset, size, add_inputs."""
    *_, offset, size, add_inputs = rest
    bgmv_expand_slice(inputs, weights, output, _by_token(slots, lengths), offset, size, add_inputs)


OPS = (bgmv_shrink, bgmv_expand, bgmv_expand_slice, sgmv_shrink, sgmv_expand, sgmv_expand_slice)
"""By their names in vLLM's wrapper."""
