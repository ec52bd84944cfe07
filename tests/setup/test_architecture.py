"""Every path that a document names exists, and every package is in docs/architecture.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path("docs/architecture.md")
LINK = re.compile(r"\]\((?P<path>[^)#:]+)\)")
CODE = re.compile(r"`(?P<path>(?:adapters|trainer|server|bench|embedded|tests)/[\w./-]*)`")
WITHOUT_CODE = {"migrations", "schemas", "results"}
"""Folders below the packages that the page need not explain."""


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / PAGE).read_text()


def missing_paths(page: str, folder: Path, repository: Path) -> Iterator[str]:
    links = (folder / match["path"].replace("\\", "") for match in LINK.finditer(page))
    names = (repository / match["path"] for match in CODE.finditer(page))
    yield from sorted(str(path) for path in {*links, *names} if not path.exists())


def test_every_path_exists(repository: Path) -> None:
    pages = [*repository.glob("*.md"), *repository.glob("docs/**/*.md"), *repository.glob("bench/results/*.md")]
    assert repository / PAGE in pages
    assert [path for page in pages for path in missing_paths(page.read_text(), page.parent, repository)] == []


def test_a_path_that_does_not_exist_is_found(repository: Path) -> None:
    page = "[a](../server/state.py) [b](../server/missing.py) `adapters/missing/` `adapters/checks/`"
    assert len(list(missing_paths(page, repository / "docs", repository))) == 2


def test_every_package_is_on_the_page(page: str, repository: Path) -> None:
    packages = {
        folder.parent.relative_to(repository).as_posix()
        for top in ("adapters", "trainer", "server")
        for folder in (repository / top).glob("*/__init__.py")
    }
    named = {match["path"].strip("/") for match in CODE.finditer(page)}
    assert {package for package in packages if Path(package).name not in WITHOUT_CODE} <= named
