"""The bad adapters of the acceptance test, inspected alone: faults of files need no engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import embedded
from adapters.base_model import BaseModel
from adapters.checks.canonicalizer import canonicalize
from adapters.checks.inspection import AdapterLimits
from adapters.errors import AdapterRefused
from tests.acceptance.bad_adapters import BAD


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel.from_directory(embedded.BASE, "embedded-base")


def test_there_are_more_than_a_hundred() -> None:
    assert len(BAD) > 100


@pytest.mark.parametrize(
    "kind", [kind for kind, bad in BAD.items() if bad.found_by in {"checks", "directory", "upload"}]
)
def test_it_is_refused_with_what_to_do(base: BaseModel, tmp_path: Path, kind: str) -> None:
    directory, out = tmp_path / "adapter", tmp_path / "out"
    shutil.copytree(embedded.ADAPTERS / "sql", directory)
    out.mkdir()
    BAD[kind].spoil(directory)
    with pytest.raises(AdapterRefused) as refused:
        canonicalize(directory, out, base, AdapterLimits(max_rank=16, max_bytes=64 << 20))
    assert BAD[kind].reason in refused.value.message + str(refused.value.details)
    assert all(fault.where and fault.found and fault.needed for fault in refused.value.faults)
