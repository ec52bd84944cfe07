"""Fuzz one parser: `python -m tests.fuzz TARGET [libFuzzer's options]`, for example `header -max_total_time=60`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

PACKAGES = ["adapters", "server.http", "starlette.responses"]


def main() -> None:
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=PACKAGES):
        from tests.fuzz.targets import SEEDS, TARGETS
    corpus = Path(tempfile.mkdtemp(prefix=f"corpus-{name}-"))
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), f"-artifact_prefix={corpus}/", *options], TARGETS[name])
    atheris.Fuzz()


main()
