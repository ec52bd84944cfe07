"""A blob is hashed once, and again whenever any of its files may have changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.storage.disk import FileEntry
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE, Manifest
from adapters.storage.verification_cache import VerificationCache


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    (tmp_path / CONFIG_FILE).write_text("{}")
    (tmp_path / WEIGHTS_FILE).write_bytes(b"weights")
    time.sleep(0.1)  # what was written just now is hashed each time
    return tmp_path


@pytest.fixture
def digest(blob: Path) -> str:
    return Manifest.of(blob).digest


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed."""
    names: list[str] = []
    entry_of = FileEntry.of

    def noted(path: Path) -> FileEntry:
        names.append(path.name)
        return entry_of(path)

    monkeypatch.setattr(FileEntry, "of", noted)
    return names


def rot(blob: Path) -> None:
    """Other bytes, as many, written when the old ones were."""
    weights = blob / WEIGHTS_FILE
    before = weights.stat()
    weights.write_bytes(b"WEIGHTS")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(blob: Path) -> None:
    other = blob / "other"
    other.write_bytes(b"weighTs")
    other.rename(blob / WEIGHTS_FILE)


def remove(blob: Path) -> None:
    (blob / WEIGHTS_FILE).unlink()


def test_what_did_not_change_is_hashed_once(blob: Path, digest: str, hashed: list[str]) -> None:
    cache = VerificationCache()
    assert [cache.is_intact(blob, digest) for _ in range(3)] == [True, True, True]
    assert hashed == [CONFIG_FILE, WEIGHTS_FILE]


def test_what_was_written_just_now_is_hashed_again(blob: Path, digest: str, hashed: list[str]) -> None:
    (blob / WEIGHTS_FILE).touch()
    cache = VerificationCache()
    assert all(cache.is_intact(blob, digest) for _ in range(2))
    assert len(hashed) == 4


def test_another_process_hashes_it_again(blob: Path, digest: str, hashed: list[str]) -> None:
    assert all(VerificationCache().is_intact(blob, digest) for _ in range(2))
    assert len(hashed) == 4


@pytest.mark.parametrize("harm", [rot, replace, remove])
def test_whatever_changed_is_noticed(blob: Path, digest: str, harm: Callable[[Path], None]) -> None:
    cache = VerificationCache()
    assert cache.is_intact(blob, digest)
    harm(blob)
    assert not cache.is_intact(blob, digest)
    assert not cache.is_intact(blob, digest)


def test_what_changed_while_it_was_hashed_is_hashed_again(
    blob: Path, digest: str, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, manifest_of = VerificationCache(), Manifest.of

    def of_a_moving_target(directory: Path) -> Manifest:
        manifest = manifest_of(directory)
        rot(directory)
        return manifest

    monkeypatch.setattr(Manifest, "of", of_a_moving_target)
    assert cache.is_intact(blob, digest)
    monkeypatch.setattr(Manifest, "of", manifest_of)
    assert not cache.is_intact(blob, digest)


def test_what_was_swept_is_hashed_when_it_comes_back(blob: Path, digest: str, hashed: list[str]) -> None:
    cache = VerificationCache()
    cache.is_intact(blob, digest)
    cache.forget(digest)
    assert cache.is_intact(blob, digest)
    assert len(hashed) == 4
