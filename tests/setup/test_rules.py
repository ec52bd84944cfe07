"""The rules of the server that no linter knows. Each failure names the file and the line."""

from __future__ import annotations

import ast
import fnmatch
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import adapters
import trainer

PACKAGES = ("adapters", "trainer", "server", "bench", "embedded")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
BANNED = {"util", "helper", "common", "misc", "core", "manager", "service", "handler", "processor"}
ENVIRONMENT_READERS = {"server/settings.py", "adapters/processes/child.py"}
ENGINE = "server/engine/vllm/"

HEAVY = ("vllm", "torch", "transformers", "peft", "trl")
HEAVY_PLACES = ("server.engine.vllm", "adapters.compile", "trainer.methods", "trainer.rendering", "embedded.recipe")

# In pieces, so that this file does not find itself.
MACHINE_PATHS = re.compile(r"(?<![\w.-])/(?:" + "|".join(["wo" + "rk", "op" + "t", "fa" + "rm"]) + ")/")
REGISTRY_HOSTS = re.compile("|".join(["py" + r"pi\.org", "python" + r"hosted\.org", "download.py" + r"torch\.org"]))

Source = tuple[str, str, ast.Module]


@pytest.fixture(scope="module")
def sources(repository: Path) -> list[Source]:
    paths = sorted(path for package in PACKAGES for path in (repository / package).rglob("*.py"))
    texts = [(path.relative_to(repository).as_posix(), path.read_text()) for path in paths]
    return [(path, text, ast.parse(text)) for path, text in texts]


def nodes(sources: list[Source]) -> Iterator[tuple[str, ast.AST]]:
    for path, _, tree in sources:
        for node in ast.walk(tree):
            yield path, node


def test_files_are_short(sources: list[Source]) -> None:
    lengths = {path: len(text.splitlines()) for path, text, _ in sources}
    assert [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > MAX_FILE_LINES] == []


def test_functions_are_short(sources: list[Source]) -> None:
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path, node in nodes(sources)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_files_and_classes_are_named_for_what_they_are(sources: list[Source]) -> None:
    files = [path for path, _, _ in sources if is_banned(re.split(r"[/._]", path))]
    classes = [
        f"{path}:{node.lineno} {node.name}"
        for path, node in nodes(sources)
        if isinstance(node, ast.ClassDef) and is_banned(re.findall(r"[A-Z]?[a-z0-9]+", node.name))
    ]
    assert files + classes == []


def is_banned(words: list[str]) -> bool:
    return any(word.lower() in BANNED or word.lower().removesuffix("s") in BANNED for word in words)


def test_nothing_is_global(sources: list[Source]) -> None:
    assert [f"{path}:{node.lineno}" for path, node in nodes(sources) if isinstance(node, ast.Global)] == []


def test_few_files_read_the_environment_and_one_prepares_it_for_vllm(
    sources: list[Source],
) -> None:
    readers = {path for path, node in nodes(sources) if touches_environment(node)} - ENVIRONMENT_READERS
    assert [path for path in readers if not path.startswith(ENGINE)] == []
    assert len(readers) <= 1, readers


def touches_environment(node: ast.AST) -> bool:
    names = {"environ", "environb", "getenv", "putenv", "unsetenv", "BaseSettings"}
    if isinstance(node, ast.ImportFrom):
        return node.module in {"os", "pydantic_settings"} and any(alias.name in names for alias in node.names)
    return isinstance(node, ast.Attribute) and node.attr in names


def test_no_file_knows_the_machine_it_was_written_on(repository: Path) -> None:
    found = [
        f"{path.relative_to(repository)}:{number}"
        for path in project_files(repository)
        for number, line in enumerate(text_lines(path), 1)
        if MACHINE_PATHS.search(line) or REGISTRY_HOSTS.search(line)
    ]
    assert found == []


def project_files(repository: Path) -> Iterator[Path]:
    """Yield what git would track, without asking git: the tests also run from an unpacked archive."""
    ignored = [line.strip("/") for line in (repository / ".gitignore").read_text().splitlines()] + [".git"]
    for folder, subfolders, files in os.walk(repository):
        subfolders[:] = [name for name in subfolders if not any(fnmatch.fnmatch(name, rule) for rule in ignored)]
        yield from (Path(folder, name) for name in files)


def text_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except UnicodeDecodeError:
        return []


@pytest.mark.parametrize("package", [adapters, trainer])
def test_our_packages_are_ours_and_not_their_namesakes_on_the_index(package: ModuleType, repository: Path) -> None:
    assert Path(package.__file__ or "").parent.parent == repository


def test_a_module_outside_the_tensor_packages_imports_without_vllm_and_torch(
    sources: list[Source], repository: Path
) -> None:
    modules = [module for path, _, _ in sources if not is_special(module := module_name(path))]
    program = (
        "import importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(module)\n"
        f"    heavy = sorted({set(HEAVY)!r} & sys.modules.keys())\n"
        "    if heavy: sys.exit(f'{module} imports {heavy}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *modules], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def is_special(module: str) -> bool:
    """Whether a module may be heavy, or is a program that runs when imported."""
    is_program = module.endswith(".__main__") or ".migrations" in module
    return is_program or any(module == place or module.startswith(f"{place}.") for place in HEAVY_PLACES)
