"""Children that train a run, started and watched without taking the CPU that they train with."""

import subprocess
import sys
from collections.abc import Callable
from threading import Event as Flag
from typing import Any, Final

from trainer.rendering.rendering import render
from trainer.run_directory import RunDirectory

EVERY_S: Final = 0.02


def start(run: RunDirectory, **options: Any) -> subprocess.Popen[bytes]:
    """Start the child of ``run``; ``options`` are Popen's.

    The rows are rendered here first: a process that imports vLLM for it would take longer than the training.
    """
    if not run.is_rendered and run.result() is None:
        render(run)
    return subprocess.Popen([sys.executable, "-m", "trainer.methods", run.path], **options)


def watch(process: subprocess.Popen[bytes], condition: Callable[[], Any]) -> None:
    """Wait for ``condition``, which must be true before ``process`` ends."""
    while not condition():
        assert process.poll() is None
        Flag().wait(EVERY_S)
