"""The child process that renders the files of a run."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag

import pytest

from trainer.methods import rendering_child
from trainer.methods.rendering_child import LIMITS, rendering
from trainer.run_directory import Exit, RunDirectory

HUNGRY = "bytearray(1 << 29)"


def test_rows_of_any_length_take_no_more_memory_than_rendering_may(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rendering_child, "python_command", lambda *_: [sys.executable, "-c", HUNGRY])
    with rendering(RunDirectory(tmp_path)) as wait:
        wait(Flag())
    monkeypatch.setattr(rendering_child, "LIMITS", replace(LIMITS, memory_bytes=1 << 28))
    with rendering(RunDirectory(tmp_path)) as wait, pytest.raises(subprocess.CalledProcessError):
        wait(Flag())


def test_a_full_disk_is_told_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ends = [sys.executable, "-c", f"raise SystemExit({Exit.NO_SPACE:d})"]
    monkeypatch.setattr(rendering_child, "python_command", lambda *_: ends)
    with rendering(RunDirectory(tmp_path)) as wait, pytest.raises(OSError, match="No space left"):
        wait(Flag())
