"""The worker's child process: ``python -m trainer.methods RUN_DIR [--check]``.

Tensor libraries take seconds to import, so each is imported where it is needed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event as Flag

from trainer.methods.endings import RunEnded, SpecRefused
from trainer.methods.lock import alone
from trainer.run_directory import Exit, RunDirectory, event
from trainer.run_spec import Method, RunSpec


def main(arguments: Sequence[str], stop: Flag) -> Exit:
    """Train what ``RUN_DIR/spec.json`` says, or go on with it; the exit status says how it ended.

    With ``--check`` only find out what that would meet: the verdict is in ``check.json``, the status 0.
    """
    run = RunDirectory(Path(arguments[0]))
    try:
        with alone(run, stop):
            if "--check" in arguments[1:]:
                from trainer.methods.preflight import check

                check(run, _train)
            else:
                _finish(run, stop)
    except RunEnded as ended:
        run.append(event(str(ended), data=ended.data, level=ended.level))
        return ended.status
    return Exit.FINISHED


def _finish(run: RunDirectory, stop: Flag) -> None:
    """Train to the result, then leave the result files: the result is served while they are drawn."""
    from trainer.methods import result_files  # before training: at its end somebody waits

    if run.result() is None:
        try:
            spec = run.spec()
        except (OSError, ValueError) as error:
            raise SpecRefused(str(error)) from error
        _train(run, spec, stop)
    result_files.write(run)


def _train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    match spec.method:
        case Method.SUPERVISED:
            from trainer.methods import supervised

            supervised.train(run, spec, stop)
        case Method.DPO:
            from trainer.methods import dpo

            dpo.train(run, spec, stop)
        case Method.KTO:
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
    _heed_signals(asked, checks="--check" in sys.argv)
    status = main(sys.argv[1:], asked)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # all is on the disk, and tensor libraries take seconds to clean up behind themselves
