"""How a process of vLLM is started: forked where that is equivalent, else spawned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[5]


def start(kind: str, circumstance: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the state that the started process prints, and what its starter prints."""
    command = [sys.executable, str(Path(__file__).with_name("process_starter.py")), kind, circumstance]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    started, starter = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))  # and a warning
    assert starter["exit"] == 0
    return started, starter


@pytest.mark.parametrize(
    ("kind", "circumstance", "parent"),
    [
        ("engine", "as ever", "server"),
        ("engine", "bound otherwise", "server"),
        ("engine", "without a fork server", "self"),
        ("worker", "as ever", "server"),
        ("worker", "bound otherwise", "self"),
        ("worker", "without a fork server", "self"),
    ],
)
def test_a_process_is_forked_unless_its_threads_are_to_be_bound_otherwise_or_the_fork_server_is_gone(
    kind: str, circumstance: str, parent: str
) -> None:
    started, starter = start(kind, circumstance)
    assert started["parent"] == starter[parent]
    assert started["late"] == "set after the fork server was started"
    assert started["cpus"] == sorted(os.sched_getaffinity(0))
