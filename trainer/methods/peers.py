"""The processes that share a run: the first of them writes, and all decide alike. A run of one process is the first."""

from __future__ import annotations

import torch
from accelerate import PartialState
from torch import distributed


def meet() -> None:
    """Join the other processes that accelerate's launcher started; each takes a GPU, or talks through the CPU."""
    PartialState(cpu=not torch.cuda.is_available())


def is_first() -> bool:
    """Whether this process writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def wait() -> None:
    """Wait until every process is here."""
    if distributed.is_initialized():
        distributed.barrier()


def agreed(said: bool) -> bool:  # noqa: FBT001 - an answer
    """Return what the first process said; every process has to ask."""
    if not distributed.is_initialized():
        return said
    answer = [said]
    distributed.broadcast_object_list(answer, src=0)
    return answer[0]
