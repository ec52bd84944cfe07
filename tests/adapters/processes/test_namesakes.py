"""Modules of the user named ``adapters``, ``server`` or ``trainer`` take no package's place, or an error names them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from contextlib import aclosing
from pathlib import Path

import pytest

from adapters.processes import line_process
from adapters.processes.child import child_environment, python_command
from adapters.processes.fork_pool import ForkPool
from adapters.processes.limits import ResourceLimits
from patchbay import PACKAGES, ROOT, check_packages
from trainer.child import LOG, child

AMPLE = ResourceLimits(memory_bytes=1 << 30, cpu_s=60, wall_s=300.0)
MODULE = "print('a module of the user')\n"


@pytest.fixture
def namesakes(tmp_path: Path) -> Path:
    """A directory with three modules of the user."""
    directory = tmp_path / "user"
    (directory / "trainer").mkdir(parents=True)
    for name in ("adapters.py", "server.py", "trainer/__init__.py"):
        (directory / name).write_text(MODULE)
    return directory


@pytest.fixture
def console_script(tmp_path: Path) -> Path:
    """The script that an installer makes of pyproject's entry point."""
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = entry_points["patchbay"].partition(":")
    script = tmp_path / "bin" / "patchbay"
    script.parent.mkdir()
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    return script


@pytest.mark.parametrize("entry", ["", "{user}"], ids=["empty entry", "named"])
def test_the_command_runs_beside_namesakes(namesakes: Path, console_script: Path, entry: str) -> None:
    path = os.pathsep.join([entry.format(user=namesakes), str(ROOT)])
    command = [sys.executable, str(console_script), "jobs", "--help"]
    done = subprocess.run(command, cwd=namesakes, env={"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: patchbay jobs" in done.stdout


async def test_a_fork_pool_runs_beside_namesakes(namesakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(namesakes)
    setup = {"name": "tiny", "fingerprint": "f", "dtype": "BF16", "modules": {}}
    async with aclosing(ForkPool("adapters.checks.__main__")) as pool:
        with pytest.raises(FileNotFoundError):
            await pool.ask(
                setup, {"directory": "nothing", "out": "out", "limits": {"max_rank": 1, "max_bytes": 1}}, AMPLE
            )


async def test_a_process_asked_by_line_runs_beside_namesakes(namesakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(namesakes)
    (namesakes / "loud.py").write_text(
        "from adapters.processes.line_process import serve_lines\nserve_lines(lambda question: question)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(namesakes))
    assert await line_process.run("loud", {"number": 7}, limits=AMPLE) == {"number": 7}


async def test_a_training_process_runs_beside_namesakes(
    namesakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(namesakes)
    run = tmp_path / "run"
    run.mkdir()
    async with child(run) as process:
        assert await process.ended() is not None
    assert (run / "events.jsonl").exists()
    assert "user" not in (run / LOG).read_text()


def test_processes_that_vllm_starts_import_nothing_from_the_working_directory(namesakes: Path, tmp_path: Path) -> None:
    found = tmp_path / "found"
    program = f"""
from multiprocessing import get_context
from server.engine.vllm import patches
from server.engine.vllm.cpu import fork_server
fork_server.PRELOAD = ("server.errors",)
patches.prepare_import()
process = get_context("forkserver").Process(
    target=exec, args=("import server, pathlib; pathlib.Path({str(found)!r}).write_text(server.__file__)",)
)
process.start()
process.join()
"""
    command = [sys.executable, "-P", "-c", program]
    subprocess.run(command, cwd=namesakes, env={"PYTHONPATH": str(ROOT)}, check=True, timeout=120)
    assert found.read_text() == str(ROOT / "server" / "__init__.py")


def test_a_child_started_by_a_child_imports_nothing_from_the_working_directory(namesakes: Path) -> None:
    program = "import adapters, subprocess, sys; subprocess.run([sys.executable, '-m', 'adapters'])"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=namesakes, env=child_environment(inherits=True), capture_output=True, text=True, check=True
    )
    assert MODULE.split("'")[1] not in done.stdout
    assert "-P" in python_command("adapters.checks")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """What an installation has beside ``patchbay.py``, as far as the check goes."""
    site = tmp_path / "site-packages"
    for name in PACKAGES:
        (site / name).mkdir(parents=True)
        shutil.copy(ROOT / name / "__init__.py", site / name)
    shutil.copy(ROOT / "patchbay.py", site)
    return site


def start(*path: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-P", "-m", "patchbay"], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_comes_before_an_installed_one_is_named(installed: Path, tmp_path: Path, name: str) -> None:
    foreign = tmp_path / "foreign" / name
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").write_text(MODULE)
    done = start(foreign.parent, installed)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: Python imports '{name}' from {foreign}" in done.stderr
    assert "off PYTHONPATH" in done.stderr


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_another_one_has_overwritten_is_named(installed: Path, name: str) -> None:
    (installed / name / "__init__.py").write_text(MODULE)
    done = start(installed)
    assert done.returncode == 1
    assert f"error: another package has overwritten {installed / name}" in done.stderr


def test_ours_are_ours() -> None:
    check_packages()
