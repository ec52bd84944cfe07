"""The glossary's words are the code's words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGES = ("adapters", "trainer", "server", "bench", "embedded")
TERM = re.compile(r"^- \*\*(?P<term>[^*]+)\*\*(?P<later> \(later\))?: \S", re.MULTILINE)


@pytest.fixture(scope="module")
def glossary(repository: Path) -> str:
    return (repository / "GLOSSARY.md").read_text()


def test_each_term_is_used_by_the_code(glossary: str, repository: Path) -> None:
    code = "\n".join(path.read_text() for package in PACKAGES for path in (repository / package).rglob("*.py"))
    terms = [match["term"] for match in TERM.finditer(glossary) if not match["later"]]
    assert [term for term in terms if not re.search(term.replace(" ", r"[\s_-]?"), code, re.IGNORECASE)] == []


def test_each_entry_is_one_line_and_each_term_is_explained_once(glossary: str) -> None:
    entries = [line for line in glossary.splitlines() if line.startswith("-")]
    assert [entry for entry in entries if not TERM.match(entry)] == []
    terms = [match["term"] for match in TERM.finditer(glossary)]
    assert sorted(terms) == sorted(set(terms))
