"""The worker's child process: ``python -m trainer.methods RUN_DIR [--preflight]``.

Tensor libraries take seconds to import, so each is imported where it is used.
"""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event as Flag
from typing import Final

from adapters.processes.child import die_with_parent
from adapters.storage.disk import is_no_space
from trainer.endings import RunEnded
from trainer.methods.launch import SHARED, alone, launch, read_spec, stop_file, write_end
from trainer.methods.rendering_child import rendering
from trainer.run_directory import Exit, RunDirectory
from trainer.run_spec import RunSpec

PREFLIGHT: Final = "--preflight"


def main(arguments: Sequence[str], stop: Flag) -> int:
    """Train the spec in ``RUN_DIR``, or go on training it; return an exit status of ``Exit``.

    With ``--preflight`` write a report on the spec to ``check.json`` instead and return 0. With ``--shared`` be one of
    the processes that ``launch`` starts.
    """
    run = RunDirectory(Path(arguments[0]))
    try:
        return _share(run) if SHARED in arguments else _work(run, stop, is_preflight=PREFLIGHT in arguments)
    except Exception as error:
        if not is_no_space(error, run.path):
            raise
        with suppress(OSError):  # of the same disk
            traceback.print_exc()
            if SHARED in arguments:
                write_end(run, Exit.NO_SPACE)
        return Exit.NO_SPACE


def _work(run: RunDirectory, stop: Flag, *, is_preflight: bool) -> int:
    try:
        if is_preflight:
            with alone(run, stop), rendering(run) as wait_for_rendering:
                from trainer.methods.preflight import write_preflight

                wait_for_rendering(stop)
                write_preflight(run, _train)
        elif run.result() is None and (spec := read_spec(run)).processes > 1:
            with rendering(run) as wait_for_rendering:
                wait_for_rendering(stop)
            return launch(run, spec, stop)
        else:
            with alone(run, stop), rendering(run) as wait_for_rendering:
                wait_for_rendering(stop)
                _finish(run, stop)
    except RunEnded as ended:
        run.append(ended.event())
        return ended.status
    return Exit.FINISHED


def _share(run: RunDirectory) -> int:
    """Train together with other processes; only the first writes, and holds the lock of the run directory.

    When the first fails, the launcher ends the others because of its status.
    """
    from trainer.methods import peers

    stop = stop_file(run)
    peers.meet()
    status = Exit.FINISHED
    try:
        if peers.is_first():
            with alone(run, stop):
                peers.wait()
                _finish(run, stop)
        else:
            peers.wait()  # from here on no other child changes the run
            if run.result() is None:
                _train(run, read_spec(run), stop)
    except RunEnded as ended:
        if peers.is_first():
            run.append(ended.event())
            status = ended.status
    if peers.is_first():
        write_end(run, status)
    return status


def _finish(run: RunDirectory, stop: Flag) -> None:
    """Train to the result, then write the result files: the result is served while they are drawn."""
    from trainer.methods import result_files  # before training: at its end its user waits

    if run.result() is None:
        _train(run, read_spec(run), stop)
    result_files.write(run)


def _train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    importlib.import_module(f"trainer.methods.{spec.method}").train(run, spec, stop)


def _install_signal_handlers(stop: Flag, *, is_preflight: bool) -> None:
    """Have SIGTERM and a terminal's Ctrl-C end training at the next checkpoint.

    A preflight goes on: it is short, its report decides about a job, and its parent process can kill it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN if is_preflight else lambda *_: stop.set())


if __name__ == "__main__":
    stop_flag = Flag()
    if SHARED in sys.argv:
        die_with_parent()  # accelerate's launcher may be killed; a signal of its own means: at once
    else:
        _install_signal_handlers(stop_flag, is_preflight=PREFLIGHT in sys.argv)
    status = main(sys.argv[1:], stop_flag)
    with suppress(OSError):  # the disk of the log is full
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)  # everything is on disk, and tensor libraries take seconds to clean up
