"""The answer of a child process to a question, both JSON objects: a result, or the error that the work raised."""

import traceback
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

from adapters.errors import MAX_FAULTS, AdapterRefused, Fault, WorkerProcessDied
from adapters.processes.limits import LimitExceeded, ResourceLimits, is_out_of_memory

_SHOWN_CHARACTERS: Final = 2000

Json = dict[str, Any]
Work = Callable[[Json], Json]
"""What a child process does with a question."""


def answer_of(work: Work, question: Json) -> Json:
    """Return the answer of ``work``, run in the child process, to ``question``; nothing is raised."""
    try:
        return work(question)
    except AdapterRefused as refused:
        return {"faults": [asdict(fault) for fault in islice(refused.faults, MAX_FAULTS + 1)]}
    except Exception as error:  # noqa: BLE001 - raised again in the parent, where it can be logged
        if is_out_of_memory(error):
            return {"out_of_memory": True}
        if isinstance(error, OSError):
            return {"errno": error.errno, "reason": str(error.strerror)}
        return {"died": traceback.format_exc()[-_SHOWN_CHARACTERS:]}


def result_of(answer: Json, limits: ResourceLimits | None) -> Json:
    """Return the result in ``answer``, read in the parent process.

    Raises:
        AdapterRefused: with the faults that the work found.
        LimitExceeded: the work needed more memory than ``limits`` allow.
        OSError: a file could not be read or written.
        WorkerProcessDied: the work failed otherwise; ``log`` is the traceback.
    """
    if "out_of_memory" in answer:
        raise LimitExceeded("the memory there is" if limits is None else f"{limits.memory_bytes >> 20} MiB of memory")
    if "faults" in answer:
        raise AdapterRefused([Fault(**fault) for fault in answer["faults"]])
    if "errno" in answer:
        raise OSError(answer["errno"], answer["reason"])
    if "died" in answer:
        raise WorkerProcessDied("a process that worked on the adapter failed", log=answer["died"])
    return answer
