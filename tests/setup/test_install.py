"""setup/install says in words why it cannot go on; that it can go on is what made this test run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    shutil.copytree(repository / "setup", tmp_path / "setup")
    return tmp_path


def install(checkout: Path, *arguments: str, python: str = "python3") -> str:
    """Run the script, which must fail, and return what it says."""
    done = subprocess.run(
        [checkout / "setup" / "install", *arguments],
        env=os.environ | {"PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_a_usable_python_it_says_which_to_install(checkout: Path) -> None:
    old = program(checkout / "python3.9", "exit 1")
    assert "install Python 3.11, 3.12 or 3.13" in install(checkout, python=str(old))
    assert not (checkout / ".venv").exists()


def test_a_venv_with_an_old_python_is_named_and_left_alone(checkout: Path) -> None:
    old = program(checkout / ".venv" / "bin" / "python", '[ "$1" = --version ] && echo Python 3.9.2')
    assert "(Python 3.9.2) is not 3.11, 3.12 or 3.13; remove it with 'make clean'" in install(checkout)
    assert old.exists()


def test_an_unknown_backend_is_refused_with_the_known_ones(checkout: Path) -> None:
    assert "unknown backend 'rocm'; use auto, cpu or cuda" in install(checkout, "rocm")
