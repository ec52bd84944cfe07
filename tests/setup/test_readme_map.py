"""The README's map: the folders of its tree exist, and the routes of its table are served."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from server.app import ROUTES
from server.gateway.inference_routes import INFERENCE_ROUTES

SHOWN_WHOLE = ("adapters", "server")
"""Packages whose own packages are all in the tree."""


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


@pytest.fixture(scope="module")
def tree(readme: str) -> dict[str, set[str]]:
    """The folders inside each folder of the tree."""
    block = re.search(r"^## Layout\n+```\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert block is not None
    found: dict[str, set[str]] = {}
    for line in block[1].splitlines():
        if top := re.match(r"(\w+)/\s", line):
            inside = found[top[1]] = set()
        else:
            inside |= set(re.findall(r"\s{2}(\w+)/(?=\s)", line))
    return found


def packages_in(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/__init__.py")}


def test_every_folder_of_the_tree_exists(tree: dict[str, set[str]], repository: Path) -> None:
    folders = [Path(top, name) for top, inside in tree.items() for name in {"", *inside}]
    assert [folder for folder in folders if not (repository / folder).is_dir()] == []


def test_every_package_is_in_the_tree(tree: dict[str, set[str]], repository: Path) -> None:
    pyproject = tomllib.loads((repository / "pyproject.toml").read_text())
    packages = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {name for name in packages if not name.endswith(".py")} <= tree.keys()
    for package in SHOWN_WHOLE:
        assert tree[package] == packages_in(repository / package)


@pytest.fixture(scope="module")
def served() -> set[str]:
    """The paths of all routes."""
    control = {route.path for module in ROUTES for route in module.router.routes if isinstance(route, APIRoute)}
    return {*INFERENCE_ROUTES, *control}


def test_every_route_of_the_table_is_served(readme: str, served: set[str]) -> None:
    section = readme.partition("\n## HTTP routes\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`/[^|]*) \|", section, re.MULTILINE)
    routes = [route for cell in cells for route in re.findall(r"`([^`]+)`", cell)]
    assert len(routes) > len(cells) > 1
    assert [route for route in routes if not is_served(route, served)] == []


def is_served(route: str, served: set[str]) -> bool:
    """Whether ``route`` is served, or begins routes that are where it ends with an ellipsis."""
    if route.endswith("…"):
        return any(path.startswith(route.removesuffix("…")) for path in served)
    return route in served


def test_a_route_that_is_not_served_is_found(served: set[str]) -> None:
    wrong = ("/v1/adaptors/…", "/v1/model", "/pause", "/v1/load_lora_adapters")
    assert [route for route in wrong if is_served(route, served)] == []
