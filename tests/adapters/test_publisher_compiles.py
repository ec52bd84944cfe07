"""What the engine would not serve exactly is compiled on its way in, and kept as it came beside that."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.checks.canonicalizer import Canonical
from adapters.errors import AdapterRefused, Fault, WorkerProcessDied
from adapters.lora.canonical_form import CompileReport
from adapters.publish_options import PublishOptions
from adapters.publisher import Publisher
from adapters.registry.registry import Registry
from adapters.sources.directory import DirectorySource
from adapters.storage.blobs import Blobs
from adapters.storage.manifest import CONFIG_FILE, FILES, Manifest
from adapters.storage.staging import Staging
from tests.adapters.test_publisher import REPORT

WriteAdapter = Callable[..., Path]
COMPILED = CompileReport("dora", "exact", 8, 16, 1e-5, 2e-5, "model.layers.0.self_attn.q_proj", 0.0, (), ())


async def checks(directory: Path, out: Path) -> Canonical:
    """Lets in what is canonical, which the compiler's is, and what can be made so; nothing else."""
    config = (directory / CONFIG_FILE).read_text()
    if config == '{"scale": 2}':
        await compiler(directory, out, None)
        return Canonical(REPORT, FOLDED)
    if config != "{}":
        raise AdapterRefused([Fault("peft_type", "LOHA", "plain LoRA")])
    return Canonical(REPORT, None)


async def compiler(source: Path, out: Path, compress_to: int | None) -> CompileReport:
    shutil.copyfile(source / FILES[1], out / FILES[1])
    (out / CONFIG_FILE).write_text("{}")
    return COMPILED


FOLDED = CompileReport("lora", "folded", 8, 8, 0.0, 0.0, None, 1e-3, (), ())


@pytest.fixture
def loha(write_adapter: WriteAdapter) -> Path:
    directory = write_adapter()
    (directory / CONFIG_FILE).write_text('{"peft_type": "LOHA"}')
    return directory


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


async def test_an_adapter_that_the_checks_refuse_is_served_compiled_and_kept_as_it_came(
    registry: Registry, blobs: Blobs, staging: Staging, loha: Path
):
    publisher = Publisher(registry, blobs, staging, checks, compiler=compiler)
    published = await publisher.publish("sql", DirectorySource(loha, [loha]))

    version = published.version
    assert version.original_digest == Manifest.of(loha).digest != version.digest
    assert (await blobs.verify(version.digest) / CONFIG_FILE).read_text() == "{}"
    assert Manifest.of(await blobs.verify(version.original_digest)) == Manifest.of(loha)
    assert await registry.digests() == {version.digest, version.original_digest}
    assert (await registry.report(version))["compile"] == COMPILED.to_json()
    assert list(staging.directory.iterdir()) == []


async def test_a_lora_in_another_form_is_served_in_the_canonical_one_and_kept_as_it_came(
    registry: Registry, blobs: Blobs, staging: Staging, write_adapter: WriteAdapter
):
    directory = write_adapter()
    (directory / CONFIG_FILE).write_text('{"scale": 2}')
    version = (
        await Publisher(registry, blobs, staging, checks).publish("sql", DirectorySource(directory, [directory]))
    ).version
    assert version.original_digest == Manifest.of(directory).digest != version.digest
    assert (await blobs.verify(version.digest) / CONFIG_FILE).read_text() == "{}"
    assert Manifest.of(await blobs.verify(version.original_digest)) == Manifest.of(directory)
    assert (await registry.report(version))["compile"] == FOLDED.to_json()


async def test_a_lora_in_canonical_form_is_served_as_it_came_and_stored_once(
    registry: Registry, blobs: Blobs, staging: Staging, write_adapter: WriteAdapter
):
    directory = write_adapter()
    (directory / CONFIG_FILE).write_text("{}")
    publisher = Publisher(registry, blobs, staging, checks, compiler=compiler)
    plain = (await publisher.publish("sql", DirectorySource(directory, [directory]))).version
    assert (plain.digest, plain.original_digest) == (Manifest.of(directory).digest, None)
    assert await registry.digests() == {plain.digest}
    assert "compile" not in await registry.report(plain)


async def test_a_rank_to_cut_at_is_for_the_compiler_also_where_the_checks_would_take_the_adapter(
    registry: Registry, blobs: Blobs, staging: Staging, write_adapter: WriteAdapter
):
    asked: list[int | None] = []

    async def cutting(source: Path, out: Path, compress_to: int | None) -> CompileReport:
        asked.append(compress_to)
        return await compiler(source, out, compress_to)

    directory = write_adapter()
    (directory / CONFIG_FILE).write_text("{}")
    publisher = Publisher(registry, blobs, staging, checks, compiler=cutting)
    await publisher.publish("sql", DirectorySource(directory, [directory]), PublishOptions(compress_to=4))
    assert asked == [4]


async def test_what_cannot_be_compiled_either_is_refused_with_the_compilers_reasons(
    registry: Registry, blobs: Blobs, staging: Staging, loha: Path
):
    async def refusing(source: Path, out: Path, compress_to: int | None) -> CompileReport:
        raise AdapterRefused([Fault("rank", "64", "at most 16, or compress_to=16, which loses 0.3")])

    publisher = Publisher(registry, blobs, staging, checks, compiler=refusing)
    with pytest.raises(AdapterRefused, match="which loses"):
        await publisher.publish("sql", DirectorySource(loha, [loha]))
    assert len(registry.catalog) == 0
    assert list(staging.directory.iterdir()) == []


async def test_a_compiler_that_dies_leaves_the_checks_reasons(
    registry: Registry, blobs: Blobs, staging: Staging, loha: Path
):
    async def dying(source: Path, out: Path, compress_to: int | None) -> CompileReport:
        raise WorkerProcessDied("the compiler ended with status -11", log="")

    publisher = Publisher(registry, blobs, staging, checks, compiler=dying)
    with pytest.raises(AdapterRefused, match="plain LoRA"):
        await publisher.publish("sql", DirectorySource(loha, [loha]))


async def test_a_lora_that_the_checks_refuse_is_not_compiled(
    registry: Registry, blobs: Blobs, staging: Staging, write_adapter: WriteAdapter
):
    directory = write_adapter()
    (directory / CONFIG_FILE).write_text('{"peft_type": "LORA"}')
    publisher = Publisher(registry, blobs, staging, checks, compiler=compiler)
    with pytest.raises(AdapterRefused, match="plain LoRA"):
        await publisher.publish("sql", DirectorySource(directory, [directory]))
