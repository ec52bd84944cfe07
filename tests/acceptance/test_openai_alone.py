"""OpenAI's client in an interpreter that has `openai` and what it depends on, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SCRIPT = Path(__file__).with_name("openai_alone.py")


def requirements(name: str, known: set[str]) -> set[str]:
    """Add a distribution and all that it needs, without extras, to ``known``."""
    if (name := canonicalize_name(name)) not in known:
        known.add(name)
        for line in distribution(name).requires or []:
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                requirements(required.name, known)
    return known


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """A directory with what an installation of `openai` brings, and nothing else."""
    directory: Path = tmp_path_factory.mktemp("openai-alone")
    for name in requirements("openai", set()):
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}:
            directory.joinpath(top).symlink_to(Path(str(installed.locate_file(top))))
    return directory


def run(packages: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run an interpreter that sees the standard library and ``packages``: -S leaves site-packages out."""
    return subprocess.run(
        [sys.executable, "-S", "-P", *arguments],
        env={"PYTHONPATH": str(packages), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.parametrize("name", ["patchbay", "server", "vllm", "torch", "requests"])
def test_nothing_else_is_there(packages, name):
    assert f"No module named '{name}'" in run(packages, "-c", f"import {name}").stderr


def test_openai_s_client_works_with_nothing_else_installed(packages, server):
    done = run(packages, str(SCRIPT), f"{server.url}/v1")
    assert done.returncode == 0, done.stdout + done.stderr
