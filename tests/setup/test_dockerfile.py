"""No image is built here; what can be wrong without building one is checked."""

from __future__ import annotations

import json
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

Instructions = dict[str, list[str]]


@pytest.fixture(scope="module")
def dockerfile(repository: Path) -> Instructions:
    """The arguments of each instruction in the file, by instruction, continued lines joined."""
    text = (repository / "Dockerfile").read_text().replace("\\\n", " ")
    found: Instructions = defaultdict(list)
    for line in text.splitlines():
        if line and not line.startswith("#"):
            instruction, arguments = line.split(maxsplit=1)
            found[instruction].append(" ".join(arguments.split()))
    return found


def copied(dockerfile: Instructions) -> list[str]:
    """What is copied out of the repository, that is without ``--from``."""
    return [path for copy in dockerfile["COPY"] if "--from" not in copy for path in copy.split()[:-1]]


def test_everything_copied_exists(dockerfile: Instructions, repository: Path) -> None:
    assert [path for path in copied(dockerfile) if not (repository / path).exists()] == []


def test_everything_copied_gets_past_dockerignore(dockerfile: Instructions, repository: Path) -> None:
    allowed = (repository / ".dockerignore").read_text().splitlines()
    assert allowed[0] == "*"
    assert {f"!{path}" for path in copied(dockerfile)} == {line for line in allowed if line.startswith("!")}


def test_the_image_holds_every_package(dockerfile: Instructions, repository: Path) -> None:
    pyproject = tomllib.loads((repository / "pyproject.toml").read_text())
    assert set(pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(copied(dockerfile))


def test_stages_are_copied_from_stages(dockerfile: Instructions) -> None:
    stages = {stage.split()[-1] for stage in dockerfile["FROM"]}
    assert {"cpu", "cuda"} <= stages
    assert set(re.findall(r"--from=(\S+)", "\n".join(dockerfile["COPY"]))) <= stages


def test_the_image_installs_as_the_makefile_does(dockerfile: Instructions, repository: Path) -> None:
    script = "setup/install"
    assert f"\t{script} $(BACKEND) dev\n" in (repository / "Makefile").read_text()
    assert [run for run in dockerfile["RUN"] if run.startswith(script)] == [f"{script} cpu", f"{script} cuda"]
    assert not [run for run in dockerfile["RUN"] if re.search(r"\b(pip|uv)\b", run)]


def test_the_server_runs_unprivileged_and_is_asked_whether_it_is_ready(dockerfile: Instructions) -> None:
    assert dockerfile["USER"] == ["patchbay"]
    assert dockerfile["EXPOSE"] == ["8000"]
    assert dockerfile["VOLUME"] == ["/data"]
    assert "/ready" in dockerfile["HEALTHCHECK"][0]
    assert json.loads(dockerfile["ENTRYPOINT"][0]) == ["patchbay"]
    assert json.loads(dockerfile["CMD"][0]) == ["serve", "--host", "0.0.0.0", "--data-dir", "/data"]
