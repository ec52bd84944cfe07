"""What was trained from a changed start is published with its first adapter beside it, and served as plain LoRA."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch
from obstore.store import LocalStore
from peft import get_peft_model
from transformers import PreTrainedModel

from adapters.checks.canonicalizer import Canonical, canonicalize
from adapters.checks.inspection import AdapterLimits
from adapters.compile.compiler import CompileBounds, compile_directory
from adapters.compile.weights import BaseWeights
from adapters.errors import AdapterRefused
from adapters.lora.canonical_form import CompileReport
from adapters.publisher import Publisher
from adapters.registry.registry import Registry
from adapters.sources import bucket
from adapters.sources.bucket import BucketSource
from adapters.sources.directory import DirectorySource
from adapters.sources.source import Source
from adapters.sources.upload import UploadSource
from adapters.storage.blobs import Blobs
from adapters.storage.manifest import CONFIG_FILE, EVERY_FILE, FILES, INITIAL, Manifest
from adapters.storage.remote_blobs import RemoteBlobs
from adapters.storage.staging import Staging
from tests.adapters.compile.spoiling import log_probabilities, train
from tests.adapters.compile.test_lora import plain

STARTS = ["pissa", "olora"]


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs", remote=RemoteBlobs(f"file://{tmp_path}/remote"))


@pytest.fixture
def publisher(registry: Registry, blobs: Blobs, staging: Staging, base: BaseWeights) -> Publisher:
    """With the inspection and the compiler themselves, in this process."""

    async def inspect(directory: Path, out: Path) -> Canonical:
        return canonicalize(directory, out, base.model, AdapterLimits(max_rank=16, max_bytes=1 << 30))

    async def compiler(source: Path, out: Path, compress_to: int | None) -> CompileReport:
        return compile_directory(source, out, base, CompileBounds(16, compress_to))

    return Publisher(registry, blobs, staging, inspect, compiler=compiler)


@pytest.fixture
def trained(fresh: Callable[[], PreTrainedModel], tmp_path: Path) -> Callable[[str], tuple[Path, torch.Tensor]]:
    """Lets PEFT train from a changed start and save both adapters; gives the directory and what the model answers."""

    def train_from(start: str) -> tuple[Path, torch.Tensor]:
        torch.manual_seed(0)
        model = get_peft_model(fresh(), plain(init_lora_weights=start)).eval()
        model.save_pretrained(tmp_path / "saved" / INITIAL)
        train(model)
        model.save_pretrained(tmp_path / "saved")
        for readme in (tmp_path / "saved").rglob("README.md"):
            readme.unlink()
        return tmp_path / "saved", log_probabilities(model)

    return train_from


def uploaded(directory: Path) -> UploadSource:
    async def content(path: Path) -> AsyncIterator[bytes]:
        yield path.read_bytes()

    async def parts() -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
        for path in sorted(directory.rglob("adapter_*")):
            yield str(path.relative_to(directory)), content(path)

    return UploadSource(parts())


@pytest.fixture(autouse=True)
def local_buckets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Buckets are directories beside each other."""
    monkeypatch.setattr(bucket, "open_store", lambda url, *_: LocalStore(tmp_path / url.removeprefix("s3://")))


SOURCES: dict[str, Callable[[Path], Source]] = {
    "upload": uploaded,
    "bucket": lambda directory: BucketSource(f"s3://{directory.name}", [f"s3://{directory.name}"]),
    "directory": lambda directory: DirectorySource(directory, [directory]),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", SOURCES)
async def test_a_changed_start_is_served_exactly_and_kept_with_its_first_adapter(
    publisher: Publisher,
    blobs: Blobs,
    trained: Callable[[str], tuple[Path, torch.Tensor]],
    answers: Callable[[Path], torch.Tensor],
    start: str,
    kind: str,
) -> None:
    directory, meant = trained(start)
    version = (await publisher.publish("sql", SOURCES[kind](directory))).version
    served = await blobs.verify(version.digest)
    assert {path.name for path in served.iterdir()} == {*FILES}
    assert (answers(served) - meant).abs().max() < 2e-4
    assert version.original_digest is not None
    original = await blobs.verify(version.original_digest)
    for name in EVERY_FILE:
        assert (original / name).read_bytes() == (directory / name).read_bytes()
    assert Manifest.of(original).digest == Manifest.of(directory).digest == version.original_digest


async def test_the_first_adapter_may_lie_where_pefts_documentation_saves_it(
    publisher: Publisher, trained: Callable[[str], tuple[Path, torch.Tensor]]
) -> None:
    directory, _ = trained("pissa")
    whole = Manifest.of(directory).digest
    (directory / INITIAL).rename(directory / "pissa_init")
    version = (await publisher.publish("sql", DirectorySource(directory, [directory]))).version
    assert version.original_digest == whole


async def test_a_lost_blob_comes_back_whole_from_the_remote_store_and_is_swept_whole(
    publisher: Publisher, blobs: Blobs, trained: Callable[[str], tuple[Path, torch.Tensor]], tmp_path: Path
) -> None:
    directory, _ = trained("pissa")
    version = (await publisher.publish("sql", DirectorySource(directory, [directory]))).version
    assert version.original_digest is not None
    lost = await blobs.path(version.original_digest)
    lost.chmod(0o755)
    (lost / INITIAL).chmod(0o755)
    shutil.rmtree(lost / INITIAL)
    assert Manifest.of(await blobs.verify(version.original_digest)).digest == version.original_digest
    known = {version.digest, version.original_digest}
    await blobs.claim("ours", known)
    assert await blobs.sweep({version.digest}, known, grace_s=-60) == [version.original_digest]
    assert not lost.exists()
    assert not list((tmp_path / "remote").glob(f"sha256/*/{version.original_digest}/**/*.*"))


async def test_half_of_a_first_adapter_is_refused(
    publisher: Publisher, trained: Callable[[str], tuple[Path, torch.Tensor]]
) -> None:
    directory, _ = trained("pissa")
    (directory / INITIAL / CONFIG_FILE).unlink()
    with pytest.raises(AdapterRefused, match=f"{INITIAL}/{CONFIG_FILE}"):
        await publisher.publish("sql", uploaded(directory))


async def test_without_it_the_refusal_says_where_to_put_it(
    publisher: Publisher, trained: Callable[[str], tuple[Path, torch.Tensor]]
) -> None:
    directory, _ = trained("pissa")
    shutil.rmtree(directory / INITIAL)
    with pytest.raises(AdapterRefused, match=f"two files in {INITIAL}/"):
        await publisher.publish("sql", DirectorySource(directory, [directory]))


async def test_a_folder_of_that_name_beside_a_plain_adapter_changes_nothing(
    publisher: Publisher, save: Callable[..., Path]
) -> None:
    directory = save(plain())
    before = (await publisher.publish("sql", DirectorySource(directory, [directory]))).version
    shutil.copytree(directory, directory / INITIAL)
    after = (await publisher.publish("sql", DirectorySource(directory, [directory]))).version
    assert (before.digest, before.original_digest) == (after.digest, after.original_digest)
