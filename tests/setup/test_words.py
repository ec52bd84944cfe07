"""Plain words: no private synonym for a standard term, no class name twice, no docstring that names nothing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

PACKAGES = ("adapters", "trainer", "server", "bench", "embedded")
DOCUMENTS = ("*.md", "docs/**/*.md", "bench/results/*.md", "Makefile", "setup/install", "Dockerfile", "pyproject.toml")

WORD_LISTS = "embedded/recipe/"
"""The vocabulary of the generated texts is data, not prose."""

BANNED = {
    "house": "state, or the server",
    "door": "checks",
    "doorway": "checks",
    "nursery": "ForkPool",
    "turnstile": "scheduler",
    "naps": "idle sleep",
    "napping": "idle sleep",
    "allowance": "resource limits",
    "seal": "verification cache",
    "seals": "verification cache",
    "stamp": "change counter, or a response header",
    "room": "capacity",
    "rooms": "capacity, or folders",
    "offer": "EngineInfo",
    "settle": "after_start",
    "own models": "grader client",
}
"""Words that a reader of this project had to learn, and what is meant."""

RIDDLES = {
    "whoever": "the caller, the process, the owner: name it",
    "nobody": "no caller, no request: name it",
    "somebody": "a caller, a request: name it",
}
"""Pronouns in place of a noun. Documents may use them, code may not."""

EMPTY = re.compile(r"(Return|Tell|Say|Note|Yield) (what|whether what|how|so|it)\b")
"""How a docstring begins that does not name the thing that is returned."""

VAGUE_NAMES = {"said", "told", "given", "came", "wishes"}
"""Names of variables and functions, in the tests too."""


@pytest.fixture(scope="module")
def modules(repository: Path) -> dict[str, ast.Module]:
    return parsed(repository, PACKAGES)


def parsed(repository: Path, folders: Iterable[str]) -> dict[str, ast.Module]:
    paths = sorted(path for folder in folders for path in (repository / folder).rglob("*.py"))
    return {path.relative_to(repository).as_posix(): ast.parse(path.read_text()) for path in paths}


def words_in(text: str, banned: Iterable[str]) -> list[str]:
    words = "|".join(map(re.escape, sorted(banned, key=len, reverse=True)))
    return [match[1].lower() for match in re.finditer(rf"(?<![\w.-])({words})(?![\w-])", text, re.IGNORECASE)]


def private_words(repository: Path, paths: Iterable[Path], banned: Mapping[str, str]) -> list[str]:
    return [
        f"{path.relative_to(repository)}:{number}: {word}, say {banned[word]}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word in words_in(line, banned)
    ]


def test_code_help_and_messages_have_no_private_words(repository: Path, modules: dict[str, ast.Module]) -> None:
    paths = [repository / path for path in modules if not path.startswith(WORD_LISTS)]
    assert private_words(repository, paths, BANNED | RIDDLES) == []


def test_tests_have_no_private_words(repository: Path) -> None:
    paths = [path for path in (repository / "tests").rglob("*.py") if path.name != "test_words.py"]
    banned = {word: meaning for word, meaning in BANNED.items() if word != "settle"}  # a fixture lets tasks settle
    assert private_words(repository, paths, banned) == []


def test_documents_have_no_private_words(repository: Path) -> None:
    paths = [path for pattern in DOCUMENTS for path in repository.glob(pattern) if ".venv" not in path.parts]
    assert private_words(repository, paths, BANNED) == []


@pytest.mark.parametrize("text", ["The door refuses it.", "house = 1", "a Turnstile", "whoever asks"])
def test_a_private_word_is_found(text: str) -> None:
    assert len(words_in(text, BANNED | RIDDLES)) == 1


def test_class_names_are_unique(modules: dict[str, ast.Module]) -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_docstrings_name_what_they_describe(modules: dict[str, ast.Module]) -> None:
    found = [f"{path}:{line}: {text.splitlines()[0]}" for path, line, text in docstrings(modules) if EMPTY.match(text)]
    assert found == []


def docstrings(modules: dict[str, ast.Module]) -> Iterator[tuple[str, int, str]]:
    for path, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield path, getattr(node, "lineno", 1), text


def test_variables_and_functions_say_what_they_are(repository: Path) -> None:
    found = [
        f"{path}:{node.lineno}: {name}"
        for path, tree in parsed(repository, (*PACKAGES, "tests")).items()
        for node in ast.walk(tree)
        for name in [bound_name(node)]
        if name is not None and name.strip("_") in VAGUE_NAMES
    ]
    assert found == []


def bound_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name
    return None
