"""One run in several processes, a GPU each, by accelerate's launcher.

::

    trainer.methods RUN_DIR              the worker's child: starts, waits, passes SIGTERM on
    └── accelerate launch                ends all processes when one of them fails
        ├── trainer.methods RUN_DIR --shared     the first has the lock and does all the writing
        └── trainer.methods RUN_DIR --shared

Each dies with the one above it, however that ended. A request to stop is a file: the launcher would hand a signal on to
each process at another step, and has no way to tell how the first of them ended.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from threading import Event as Flag
from typing import Final

from adapters.processes.child import python_command, set_up_child
from trainer.child import training_environment
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec

SHARED: Final = "--shared"
"""What a process is told that shares its run with others."""
DIED: Final = 1
"""The exit status where the first process could not tell its own."""
POLL_S: Final = 0.1


class StopFile(Flag):
    """Set once there is a file at ``path``; lets one process ask others to stop."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def set(self) -> None:
        """Ask."""
        self._path.touch()

    def clear(self) -> None:
        """Forget what was asked of an earlier start."""
        self._path.unlink(missing_ok=True)

    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self._path.exists()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait ``timeout`` seconds, and tell whether somebody asked."""
        super().wait(timeout)
        return self.is_set()


def stop_file(run: RunDirectory) -> StopFile:
    """Return where the processes of ``run`` see that they are to stop."""
    return StopFile(run.scratch / "stop")


def write_end(run: RunDirectory, status: int) -> None:
    """Write the first process's exit status for the launching process: accelerate does not pass it on."""
    _end(run).write_text(str(int(status)))


def launch(run: RunDirectory, spec: RunSpec, stop: Flag) -> int:
    """Train in ``spec.processes`` processes; return the exit status of the first, as if it were this one's."""
    run.scratch.mkdir(exist_ok=True)
    asked = stop_file(run)
    asked.clear()
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
                asked.set()
                break
    return int(_end(run).read_text()) if _end(run).exists() else launcher.returncode or DIED


def _command(run: RunDirectory, spec: RunSpec) -> list[str]:
    """Return the command line; what is left out of it, accelerate would warn of or take from a file of its own."""
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
