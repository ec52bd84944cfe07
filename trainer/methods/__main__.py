"""The worker's child process: ``python -m trainer.methods RUN_DIR [--preflight]``.

Tensor libraries take seconds to import, so each is imported where it is needed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event as Flag

from adapters.processes.child import die_with_parent
from trainer.methods.endings import RunEnded, SpecRefused
from trainer.methods.launch import SHARED, launch, stop_file, tell_end
from trainer.methods.lock import alone
from trainer.run_directory import Exit, RunDirectory, event
from trainer.run_spec import RunSpec, TrainingMethod


def main(arguments: Sequence[str], stop: Flag) -> int:
    """Train what ``RUN_DIR/spec.json`` says, or go on with it; the exit status, one of ``Exit``, says how it ended.

    With ``--preflight`` only find out what that would meet: the verdict is in ``check.json``, the status 0. With
    ``--shared`` be one of the processes that ``launch`` starts.
    """
    run = RunDirectory(Path(arguments[0]))
    if SHARED in arguments:
        return _share(run)
    try:
        if "--preflight" in arguments:
            from trainer.methods.preflight import write_preflight

            with alone(run, stop):
                write_preflight(run, _train)
        elif run.result() is None and (spec := _spec(run)).processes > 1:
            return launch(run, spec, stop)
        else:
            with alone(run, stop):
                _finish(run, stop)
    except RunEnded as ended:
        run.append(event(str(ended), data=ended.data, level=ended.level))
        return ended.status
    return Exit.FINISHED


def _share(run: RunDirectory) -> int:
    """Train together with other processes; only the first writes, and takes the lock that whoever writes has to take.

    Once the first has ended otherwise than well, its status has the launcher end the others.
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
            peers.wait()  # from here on nobody else changes the run
            if run.result() is None:
                _train(run, _spec(run), stop)
    except RunEnded as ended:
        if peers.is_first():
            run.append(event(str(ended), data=ended.data, level=ended.level))
            status = ended.status
    if peers.is_first():
        tell_end(run, status)
    return status


def _spec(run: RunDirectory) -> RunSpec:
    try:
        return run.spec()
    except (OSError, ValueError) as error:
        raise SpecRefused(str(error)) from error


def _finish(run: RunDirectory, stop: Flag) -> None:
    """Train to the result, then leave the result files: the result is served while they are drawn."""
    from trainer.methods import result_files  # before training: at its end somebody waits

    if run.result() is None:
        _train(run, _spec(run), stop)
    result_files.write(run)


def _train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    match spec.method:
        case TrainingMethod.SUPERVISED:
            from trainer.methods import supervised

            supervised.train(run, spec, stop)
        case TrainingMethod.DPO:
            from trainer.methods import dpo

            dpo.train(run, spec, stop)
        case TrainingMethod.KTO:
            from trainer.methods import kto

            kto.train(run, spec, stop)


def _heed_signals(stop: Flag, *, checks: bool) -> None:
    """Have SIGTERM and a terminal's Ctrl-C end training at the next checkpoint.

    A check goes on: it is short, its verdict decides whether a job lives, and whoever asked for it can kill it.
    """
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, signal.SIG_IGN if checks else lambda *_: stop.set())


if __name__ == "__main__":
    asked = Flag()
    if SHARED in sys.argv:
        die_with_parent()  # accelerate's launcher may be killed; a signal of its own means: at once
    else:
        _heed_signals(asked, checks="--preflight" in sys.argv)
    status = main(sys.argv[1:], asked)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # all is on the disk, and tensor libraries take seconds to clean up behind themselves
