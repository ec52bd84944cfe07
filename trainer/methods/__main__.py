"""The worker's child process: ``python -m trainer.methods RUN_DIR [--check]``."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from trainer.methods.endings import RunEnded
from trainer.methods.preflight import check
from trainer.run_directory import Exit, RunDirectory, event
from trainer.run_spec import Method, RunSpec


def main(arguments: Sequence[str], stop: threading.Event) -> Exit:
    """Train what ``RUN_DIR/spec.json`` says, or go on with it, or only check it; the exit status says how it ended."""
    run = RunDirectory(Path(arguments[0]))
    try:
        if "--check" in arguments[1:]:
            return Exit.FINISHED if check(run, _train) else Exit.REFUSED
        _train(run, run.spec(), stop)
    except RunEnded as ended:
        run.append(event(str(ended), data=ended.data, level=ended.level))
        return ended.status
    return Exit.FINISHED


def _train(run: RunDirectory, spec: RunSpec, stop: threading.Event) -> None:
    match spec.method:  # imported here: each brings its own part of TRL, seconds long
        case Method.SUPERVISED:
            from trainer.methods import supervised

            supervised.train(run, spec, stop)
        case Method.DPO:
            from trainer.methods import dpo

            dpo.train(run, spec, stop)
        case Method.KTO:
            from trainer.methods import kto

            kto.train(run, spec, stop)


if __name__ == "__main__":
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    sys.exit(main(sys.argv[1:], asked))
