"""The table that turns the drawn error tree into HTTP is total, and the drawings show every error."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import adapters.errors
import server
import server.errors
from adapters.errors import AliasMoved, PatchbayError
from server.http.errors import STATUS, error_body, error_response, status_of

SHARED: set[str] = set()
"""Codes that several errors carry on purpose."""

CODES = [
    "adapter_is_shared",
    "adapter_quarantined",
    "adapter_refused",
    "adapter_too_costly",
    "alias_moved",
    "alias_not_found",
    "api_key_needed",
    "background_unsupported",
    "base_model_unreadable",
    "batch_not_found",
    "blob_corrupt",
    "blob_store_unavailable",
    "body_too_large",
    "body_too_slow",
    "checkpoint_not_found",
    "compiler_died",
    "conflict",
    "database_unusable",
    "draining",
    "engine_not_ready",
    "eval_item_not_found",
    "eval_not_found",
    "eval_run_not_found",
    "feedback_not_found",
    "file_corrupt",
    "file_in_use",
    "file_not_found",
    "file_too_large",
    "idempotency_key_in_use",
    "idempotency_key_reused",
    "illegal_transition",
    "insufficient_quota",
    "insufficient_scope",
    "internal_error",
    "invalid_api_key",
    "invalid_field",
    "invalid_name",
    "invalid_request",
    "invalid_token",
    "issuer_unavailable",
    "job_not_found",
    "lease_lost",
    "missing_scope",
    "model_not_found",
    "name_not_allowed",
    "name_taken",
    "no_room",
    "not_found",
    "overloaded",
    "permission_not_found",
    "previous_response_not_found",
    "publication_refused",
    "rate_limit_exceeded",
    "request_refused",
    "request_timeout",
    "response_not_found",
    "rollout_changed",
    "rollout_not_found",
    "safetensors_malformed",
    "share_not_found",
    "source_error",
    "source_forbidden",
    "source_not_found",
    "source_too_large",
    "source_unavailable",
    "storage_full",
    "storage_unavailable",
    "token_without_project",
    "unavailable",
    "unsupported_by_base",
    "upload_not_found",
    "validation_died",
    "verdict_needed",
    "version_in_use",
    "version_not_found",
    "wrong_base",
]
"""Every code; clients rely on them, so the name of a class may change but its code may not."""


def subclasses(error: type[PatchbayError]) -> Iterator[type[PatchbayError]]:
    for child in error.__subclasses__():
        yield child
        yield from subclasses(child)


@pytest.fixture(scope="module")
def tree() -> list[type[PatchbayError]]:
    """Every error below the root, wherever it is defined."""
    root = Path(server.__file__).parent.parent
    floors = ("adapters", "trainer", "server")
    for path in sorted(path for floor in floors for path in root.glob(f"{floor}/**/*.py")):
        source = path.read_text()
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if "Error)" in source and "class " in source and not re.search(r"engine\.vllm|seams|trainer\.methods", module):
            importlib.import_module(module)
    own = (error for error in subclasses(PatchbayError) if error.__module__.startswith(floors))  # tests define others
    return list(dict.fromkeys(own))


def test_every_error_has_a_status_of_its_own_branch(tree: list[type[PatchbayError]]) -> None:
    orphans = [
        error.__name__
        for error in tree
        if not any(
            cls in STATUS for cls in error.__mro__ if cls is not PatchbayError and issubclass(cls, PatchbayError)
        )
    ]
    assert orphans == []


def test_the_nearest_ancestor_decides(tree: list[type[PatchbayError]]) -> None:
    for error in tree:
        nearest = next(cls for cls in error.__mro__ if cls in STATUS)
        assert status_of(error.__new__(error)) == STATUS[nearest]


def test_every_error_has_a_code_of_its_own(tree: list[type[PatchbayError]]) -> None:
    names = defaultdict(list)
    for error in [PatchbayError, *tree]:
        names[error.code].append(error.__name__)
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)
    assert {code: found for code, found in names.items() if len(found) > 1 and code not in SHARED} == {}


def test_the_codes_are_those_that_clients_know(tree: list[type[PatchbayError]]) -> None:
    assert sorted(error.code for error in [PatchbayError, *tree]) == CODES


def test_nothing_else_is_in_the_table(tree: list[type[PatchbayError]]) -> None:
    assert set(STATUS) <= {PatchbayError, *tree}
    assert all(400 <= status < 600 for status in STATUS.values())


@pytest.mark.parametrize("module", [adapters.errors, server.errors])
def test_the_drawing_shows_every_error_of_its_file(module: object) -> None:
    source = ast.parse(Path(str(getattr(module, "__file__", ""))).read_text())
    own = re.sub(r"\(\w+\)", "", ast.get_docstring(source) or "")  # in parentheses: a branch of another file
    drawn = re.findall(r"\w+", " ".join(re.findall(r"[├└]── (.+)", own)))
    errors = {
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, PatchbayError) and value.__module__ == module.__name__  # type: ignore[attr-defined]
    }
    assert sorted(drawn) == sorted(errors - {"PatchbayError"})


@pytest.mark.parametrize("module", [adapters.errors, server.errors])
def test_the_drawing_shows_each_error_below_its_parent(module: object) -> None:
    source = ast.parse(Path(str(getattr(module, "__file__", ""))).read_text())
    above: dict[int, str] = {-1: "PatchbayError"}
    for line in (ast.get_docstring(source) or "").splitlines():
        if found := re.match(r"([│ ]*)[├└]── (.+)", line):
            depth = len(found[1]) // 4
            for name in found[2].replace("(", "").replace(")", "").split(", "):
                assert getattr(module, name).__bases__[0].__name__ == above[depth - 1]
                above[depth] = name


def test_only_what_may_be_tried_again_says_when() -> None:
    assert error_response(server.errors.ResidencyFull("full", retry_after_s=7), "/").headers["retry-after"] == "7"
    assert "retry-after" not in error_response(server.errors.InvalidRequest("no"), "/").headers


def test_details_stand_beside_the_message() -> None:
    body = json.loads(error_response(AliasMoved("lost", current=3, generation=9), "/").body)
    assert body["error"]["current"] == {"version": 3, "generation": 9}
    assert body["error"]["param"] == "expected"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (418, "invalid_request_error"),
        (404, "not_found_error"),
        (507, "server_error"),
        (503, "server_error"),
    ],
)
def test_the_type_follows_the_status(status: int, kind: str) -> None:
    assert error_body("no", status)["error"] == {"message": "no", "type": kind, "param": None, "code": None}
