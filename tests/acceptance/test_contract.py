"""vLLM keeps the contract that the fake keeps: the same tests, in a process of their own for vLLM's sake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_vllm_keeps_the_contract_of_an_engine():
    suite = "tests/server/engine/test_contract.py"
    command = [sys.executable, "-m", "pytest", "-q", "--engine", "vllm", suite]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
