"""vLLM is patched in the register alone, and each patch says why it is there."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.engine.vllm import patches

ROOT = Path(__file__).parents[4]
REGISTER = ROOT / "server/engine/vllm/patches.py"
FACTS = ("Why:", "vLLM:", "Upstream:", "Obsolete:")
NO_PATCHES = {"install", "prepare_import"}


class VllmNames(ast.NodeVisitor):
    """The names of one module that are bound to something of vLLM: imported, annotated, or computed from such a name.

    Attributes of ``self`` count as names, written ``self.name``. An annotation decides where there is one.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.names: set[str] = set()
        self.declared: set[str] = set()
        self.computed: set[str] = set()
        self.visit(tree)  # finds all annotations, which the computed names depend on
        self.computed.clear()
        found = -1
        while found < len(self.computed):
            found = len(self.computed)
            self.visit(tree)

    def visit_Import(self, node: ast.Import) -> None:
        self.names |= {alias.asname or "vllm" for alias in node.names if is_of_vllm(alias.name)}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module and is_of_vllm(node.module):
            self.names |= {alias.asname or alias.name for alias in node.names}

    def visit_arg(self, node: ast.arg) -> None:
        if node.annotation is not None:
            self.declare(node.arg, node.annotation)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.declare(dotted(node.target), node.annotation)
        self.generic_visit(node)

    def declare(self, name: str, annotation: ast.expr) -> None:
        if self.mentions(annotation):
            self.names.add(name)
        else:
            self.declared.add(name)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self.bind(target, node.value)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self.bind(node.target, node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.bind(node.target, node.iter)
        self.generic_visit(node)

    def visit_withitem(self, node: ast.withitem) -> None:
        if node.optional_vars is not None:
            self.bind(node.optional_vars, node.context_expr)
        self.generic_visit(node)

    def bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            values = value.elts if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts) else None
            for number, part in enumerate(target.elts):
                self.bind(part, values[number] if values else value)
        elif self.mentions(value):
            self.computed |= {dotted(target)} - self.declared - {""}

    def mentions(self, node: ast.expr) -> bool:
        """Whether the value of ``node`` is computed from something of vLLM."""
        names = self.names | self.computed
        return any(dotted(part) in names for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute))


def is_of_vllm(module: str) -> bool:
    return module.split(".")[0] == "vllm"


def dotted(node: ast.AST) -> str:
    """Return ``name``, or ``self.name``; other expressions have no name."""
    if isinstance(node, ast.Name):
        return node.id
    is_own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return f"self.{node.attr}" if is_own and isinstance(node, ast.Attribute) else ""


def assignments(source: str) -> Iterator[ast.expr]:
    """Yield each assignment to an attribute of something of vLLM, ``setattr`` included."""
    tree = ast.parse(source)
    vllm = VllmNames(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=owner, ctx=ast.Store() | ast.Del()) if vllm.mentions(owner):
                yield node
            case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[owner, *_]) if vllm.mentions(owner):
                yield node


@pytest.mark.parametrize(
    "source",
    [
        "from vllm.v1.engine import utils\nutils.get_mp_context = spawn",
        "import vllm.envs\nvllm.envs.VLLM_USE_V1 = True",
        "def hold(client: AsyncLLM):\n from vllm import AsyncLLM\n client.generate = metered",
        "from vllm import LLM\nclass A:\n def __init__(self, c: LLM):\n  self._c = c\n  self._c.encode = None",
        "from vllm import Platform\ntype(Platform).is_cpu = no",
        "from vllm import ops\nfor name in ours:\n setattr(ops, name, ours[name])",
        "from vllm import Model\ndef f(model: Model):\n for layer in model.layers:\n  layer.a, layer.b = copies",
        "from vllm import Model\ndef f(model: Model):\n pairs = [(layer, 1) for layer in model]\n pairs[0][0].a += 1",
        "from vllm import build\nasync def f():\n app = await to_thread(build)\n app.state.server = None",
    ],
)
def test_an_assignment_to_an_attribute_of_vllm_is_found(source: str) -> None:
    assert list(assignments(source))


@pytest.mark.parametrize(
    "source",
    [
        "from vllm import AsyncLLM\nclass A:\n def __init__(self, client: AsyncLLM):\n  self._client = client",
        "from vllm import parser\nargs: Namespace = parser.parse_args()\nargs.model = model",
        "from vllm import size\nclass A:\n def __init__(self):\n  self.batch = Batch(size)",
    ],
)
def test_an_assignment_to_something_of_ours_is_not(source: str) -> None:
    assert not list(assignments(source))


def test_vllm_is_patched_in_the_register_alone() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "server/engine").rglob("*.py"))
        if path != REGISTER
        for node in assignments(path.read_text())
    ]
    assert found == []


def test_each_patch_says_why_for_which_version_and_how_to_see_that_it_is_obsolete() -> None:
    register = {
        name: function
        for name, function in inspect.getmembers(patches, inspect.isfunction)
        if function.__module__ == patches.__name__ and not name.startswith("_") and name not in NO_PATCHES
    }
    assert len(register) >= 12
    missing = [
        f"{name}: {fact}"
        for name, function in register.items()
        for fact in FACTS
        if f" {fact} " not in (function.__doc__ or "")
    ]
    assert missing == []


def test_the_assignments_of_the_register_are_found() -> None:
    assert len(list(assignments(REGISTER.read_text()))) >= 12
