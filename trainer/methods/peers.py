"""The processes that share a run: the first of them writes, and all decide alike. A single process is the first."""

import torch
from accelerate import PartialState
from torch import distributed


def meet() -> None:
    """Join the other processes that accelerate's launcher started; each uses a GPU, or gloo on the CPU."""
    PartialState(cpu=not torch.cuda.is_available())


def is_first() -> bool:
    """Whether this process writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def wait() -> None:
    """Wait until every process is here."""
    if distributed.is_initialized():
        distributed.barrier()


def agreed(decision: bool) -> bool:  # noqa: FBT001 - a value to broadcast
    """Return the first process's ``decision``; every process has to call this."""
    if not distributed.is_initialized():
        return decision
    decisions = [decision]
    distributed.broadcast_object_list(decisions, src=0)
    return decisions[0]
