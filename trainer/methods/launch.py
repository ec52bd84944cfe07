"""The processes that work on a run: one child at a time, or several with a GPU each, by accelerate's launcher.

::

    trainer.methods RUN_DIR              the worker's child: starts, waits, passes SIGTERM on
    └── accelerate launch                ends all processes when one of them fails
        ├── trainer.methods RUN_DIR --shared     the first has the lock and does all the writing
        └── trainer.methods RUN_DIR --shared

Each dies with the one above it, however that ended. A request to stop is a file: the launcher would pass a signal on to
each process at a different step. The first process's exit status is a file too: the launcher does not return it.
"""

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Flag
from typing import Final

from adapters.processes.child import python_command, set_up_child
from trainer.child import training_environment
from trainer.endings import SpecRefused, Stopped
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec

SHARED: Final = "--shared"
"""Argument of a process that shares its run with others."""
DIED: Final = 1
"""The exit status if the first process did not write its own."""
POLL_S: Final = 0.1


@contextmanager
def alone(run: RunDirectory, stop: Flag) -> Iterator[None]:
    """Hold the lock of ``run`` during the block; waits until no other child holds it.

    An orphan of a killed worker may still be dying when the next worker starts a child. The kernel
    releases the lock with the process, however it ends.

    Raises:
        Stopped: ``stop`` was set first.
        OSError: there is no such directory.
    """
    with (run.path / "lock").open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop.wait(POLL_S):
                    raise Stopped("stopped while another process worked on the run") from None
        yield


def read_spec(run: RunDirectory) -> RunSpec:
    """Return the spec of ``run``.

    Raises:
        SpecRefused: it cannot be read.
    """
    try:
        return run.spec()
    except (OSError, ValueError) as error:
        raise SpecRefused(str(error)) from error


class StopFile(Flag):
    """A flag that is set while there is a file at ``path``, so that one process can stop others."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def set(self) -> None:
        self._path.touch()

    def clear(self) -> None:
        """Delete the file of an earlier start."""
        self._path.unlink(missing_ok=True)

    def is_set(self) -> bool:
        return self._path.exists()

    def wait(self, timeout: float | None = None) -> bool:
        super().wait(timeout)
        return self.is_set()


def stop_file(run: RunDirectory) -> StopFile:
    return StopFile(run.scratch / "stop")


def write_end(run: RunDirectory, status: int) -> None:
    """Write the first process's exit status for the launching process: accelerate does not pass it on."""
    _end(run).write_text(str(int(status)))


def launch(run: RunDirectory, spec: RunSpec, stop: Flag) -> int:
    """Train in ``spec.processes`` processes; return the exit status of the first."""
    run.scratch.mkdir(exist_ok=True)
    stop_all = stop_file(run)
    stop_all.clear()
    _end(run).unlink(missing_ok=True)
    with subprocess.Popen(  # noqa: S603 - no word of it is anybody else's
        _command(run, spec),
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C is for this process, which then asks for a checkpoint
        preexec_fn=set_up_child,
        env=training_environment(run),
    ) as launcher:
        while launcher.poll() is None:
            if stop.wait(POLL_S):
                stop_all.set()
                break
    return int(_end(run).read_text()) if _end(run).exists() else launcher.returncode or DIED


def _command(run: RunDirectory, spec: RunSpec) -> list[str]:
    """Return the command line. It is complete: accelerate warns of missing options or reads them from its own file."""
    launcher = python_command("accelerate.commands.launch")
    machine = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    processes = [
        "--multi_gpu",  # its word for several processes on a machine; without a GPU they meet through gloo
        *("--num_processes", str(spec.processes)),
        *("--main_process_port", "0"),  # any that is free
        *("--num_cpu_threads_per_process", str(spec.threads or 1)),
    ]
    return [*launcher, *machine, *processes, "--module", "trainer.methods", str(run.path), SHARED]


def _end(run: RunDirectory) -> Path:
    return run.scratch / "end"
