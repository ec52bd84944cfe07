"""One child at a time works in a run directory; the next waits, whatever becomes of the first."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.methods.children import start, watch
from trainer.run_directory import LOSS_PLOT, METRICS_FILE, RESULT_FILES, Exit, RunDirectory

HOLD = """
import sys
from pathlib import Path
from threading import Event
from trainer.methods.launch import alone
from trainer.run_directory import RunDirectory
with alone(RunDirectory(Path(sys.argv[1])), Event()):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def finished(tmp_path: Path, sentiment: RunDirectory) -> RunDirectory:
    """A run whose child died between its result and the result files."""
    run = RunDirectory(tmp_path / "finished")
    run.path.mkdir()
    for name in ("spec.json", "events.jsonl", "result.json"):
        shutil.copy(sentiment.path / name, run.path)
    return run


@pytest.fixture
def holder(finished: RunDirectory) -> Iterator[subprocess.Popen]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, finished.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def waiting(finished: RunDirectory, holder: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """A child that stands at the lock."""
    with start(finished) as process:
        watch(process, lambda: has_open(process, finished.path / "lock"))
        yield process
        process.kill()


def has_open(process: subprocess.Popen, path: Path) -> bool:
    opened = []
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            opened.append(os.readlink(descriptor))
        except FileNotFoundError:  # closed meanwhile
            continue
    return str(path) in opened


def test_a_child_waits_for_another_to_die_and_then_leaves_the_missing_result_files(
    finished: RunDirectory, holder: subprocess.Popen, waiting: subprocess.Popen
) -> None:
    before = finished.events_file.read_bytes()
    assert waiting.poll() is None
    assert not any((finished.path / name).exists() for name in RESULT_FILES)
    holder.kill()
    assert waiting.wait() == Exit.FINISHED
    assert {name for name in RESULT_FILES if (finished.path / name).exists()} == {LOSS_PLOT, METRICS_FILE}
    assert finished.events_file.read_bytes() == before
    assert not finished.checkpoints_folder.exists()


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_waiting_child_that_is_asked_to_stop_stops(
    finished: RunDirectory, waiting: subprocess.Popen, asked: signal.Signals
) -> None:
    waiting.send_signal(asked)
    assert waiting.wait() == Exit.STOPPED
    assert not any((finished.path / name).exists() for name in RESULT_FILES)
