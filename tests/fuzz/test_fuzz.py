"""The parsers meet a few seconds of fuzzed bytes; `make fuzz` gives each a minute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import SEEDS, TARGETS

SECONDS = 3
REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_parser_holds_its_promise_for_any_bytes(name: str) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        name,
        f"-max_total_time={SECONDS}",
        "-timeout=5",
        "-rss_limit_mb=4096",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=120)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "Done" in run.stderr


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, seeds in sorted(SEEDS.items()) for seed in seeds])
def test_a_target_takes_its_seeds(name: str, seed: bytes) -> None:
    TARGETS[name](seed)
