from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from adapters.checks.canonicalizer import Canonical
from adapters.checks.inspection import InspectionReport
from adapters.crash_points import KILLED
from adapters.errors import AdapterRefused, Fault, InvalidName, SourceForbidden
from adapters.names import FineTunedName, Reference
from adapters.publish_options import PublishOptions
from adapters.publisher import AT_ONCE, CRASH_POINTS, Publisher
from adapters.registry.registry import Registry
from adapters.sources.directory import DirectorySource
from adapters.storage.blobs import Blobs
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE, Manifest
from adapters.storage.staging import Staging
from adapters.storage.sweep_rules import UNKNOWN_GRACE_S
from tests.process_clock import ProcessClock

ROOT = Path(__file__).resolve().parents[2]
PROCESS = Path(__file__).with_name("publishing_process.py")

WriteAdapter = Callable[..., Path]

CHECKPOINT = FineTunedName.of("base", "patchbay", "sql", "abc", 1)


REPORT = InspectionReport(
    rank=8,
    ranks={8: 2},
    alphas={16.0: 2},
    use_rslora=False,
    target_modules=("q_proj",),
    modules=2,
    tensors=4,
    dtypes=("F32",),
    size_bytes=5000,
    max_abs=0.1,
    base_model="base",
    base_fingerprint="base",
    declared_base=None,
    notes=(),
)


async def admit_all(directory: Path, _: Path) -> Canonical:
    """Lets in whatever has a config, as it came."""
    assert (directory / CONFIG_FILE).exists()
    return Canonical(REPORT, None)


async def refuse_all(directory: Path, _: Path) -> Canonical:
    raise AdapterRefused([Fault("lora_A", "rank 8", "rank 4")])


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


@pytest.fixture
def publisher(registry: Registry, blobs: Blobs, staging: Staging) -> Publisher:
    return Publisher(registry, blobs, staging, admit_all)


def blobs_in(root: Path) -> set[str]:
    return {path.name for path in root.glob("sha256/*/*")}


async def test_what_is_published_is_resolved_at_once(
    publisher: Publisher, registry: Registry, blobs: Blobs, write_adapter: WriteAdapter
):
    directory = write_adapter()
    published = await publisher.publish("sql", DirectorySource(directory, [directory]))

    assert registry.catalog.resolve(Reference("sql")) == published.version
    assert published.alias == registry.catalog.alias("sql", "stable")
    assert published.version.source == directory.as_uri()
    assert Manifest.of(await blobs.verify(published.version.digest)) == Manifest.of(directory)
    assert await registry.report(published.version) == published.report == REPORT.to_json()


async def test_a_later_version_moves_only_the_alias_asked_for(
    publisher: Publisher, registry: Registry, write_adapter: WriteAdapter
):
    first, second, third = (DirectorySource(path, [path]) for path in map(write_adapter, range(3)))
    await publisher.publish("sql", first)
    unaliased = await publisher.publish("sql", second)
    canary = await publisher.publish("sql", third, PublishOptions(alias="canary"))

    assert unaliased.alias is None
    assert canary.alias == registry.catalog.alias("sql", "canary")
    assert {a.name: a.version for a in registry.catalog.adapter("sql").aliases.values()} == {"stable": 1, "canary": 3}


async def test_what_the_checks_refuse_leaves_nothing(
    registry: Registry, blobs: Blobs, staging: Staging, write_adapter: WriteAdapter, tmp_path: Path
):
    directory = write_adapter()
    publisher = Publisher(registry, blobs, staging, refuse_all)
    with pytest.raises(AdapterRefused, match="rank 4"):
        await publisher.publish("sql", DirectorySource(directory, [directory]))

    assert len(registry.catalog) == 0
    assert blobs_in(tmp_path / "blobs") == set()
    assert list(staging.directory.iterdir()) == []


async def test_a_storm_of_publications_is_checked_a_few_at_a_time(
    registry: Registry, blobs: Blobs, staging: Staging, write_adapter: WriteAdapter
):
    checked, most, goes_on = 0, 0, asyncio.Event()

    async def checks(directory: Path, out: Path) -> Canonical:
        nonlocal checked, most
        checked += 1
        most = max(most, checked)
        await goes_on.wait()
        checked -= 1
        return await admit_all(directory, out)

    publisher = Publisher(registry, blobs, staging, checks)
    directories = [write_adapter(number) for number in range(6)]
    storm = [
        asyncio.create_task(publisher.publish(f"a{number}", DirectorySource(path, [path])))
        for number, path in enumerate(directories)
    ]
    while checked < AT_ONCE or len(list(staging.directory.glob(f"*/{WEIGHTS_FILE}"))) < len(directories):
        await asyncio.sleep(0)
    goes_on.set()
    await asyncio.gather(*storm)
    assert (most, len(registry.catalog)) == (AT_ONCE, 6)


async def test_what_the_probe_refuses_leaves_nothing(
    registry: Registry, blobs: Blobs, staging: Staging, write_adapter: WriteAdapter, tmp_path: Path
):
    probed: list[Path] = []

    async def probe(path: Path, report: InspectionReport, *, allow_inert: bool) -> Mapping[str, Any]:
        assert not allow_inert
        probed.append(path)
        assert report == REPORT
        raise AdapterRefused([Fault("probe", "no number", "finite logits")])

    directory = write_adapter()
    publisher = Publisher(registry, blobs, staging, admit_all, probe=probe)
    with pytest.raises(AdapterRefused, match="finite logits"):
        await publisher.publish("sql", DirectorySource(directory, [directory]))

    assert [path.parent for path in probed] == [staging.directory]
    assert len(registry.catalog) == 0
    assert blobs_in(tmp_path / "blobs") == set()


@pytest.mark.parametrize(("name", "alias"), [("a/b", None), ("sql", "7")])
async def test_a_bad_name_is_found_before_anything_is_fetched(
    publisher: Publisher, staging: Staging, tmp_path: Path, name: str, alias: str | None
):
    with pytest.raises(InvalidName):
        await publisher.publish(name, DirectorySource(tmp_path / "missing", []), PublishOptions(alias=alias))
    assert not staging.directory.exists()


async def test_a_source_that_fails_leaves_nothing(publisher: Publisher, staging: Staging, tmp_path: Path):
    with pytest.raises(SourceForbidden):
        await publisher.publish("sql", DirectorySource(tmp_path, []))
    assert list(staging.directory.iterdir()) == []


async def test_many_publish_the_same_bytes_at_once(
    publisher: Publisher, registry: Registry, write_adapter: WriteAdapter, tmp_path: Path
):
    directory = write_adapter()
    source = DirectorySource(directory, [directory])
    published = await asyncio.gather(*(publisher.publish("sql", source) for _ in range(8)))

    assert sorted(p.version.number for p in published) == list(range(1, 9))
    assert blobs_in(tmp_path / "blobs") == await registry.digests() == {Manifest.of(directory).digest}


async def test_a_cancelled_publication_leaves_whole_blobs_only(
    publisher: Publisher,
    registry: Registry,
    blobs: Blobs,
    staging: Staging,
    write_adapter: WriteAdapter,
    tmp_path: Path,
):
    for seed in range(30):
        directory = write_adapter(seed)
        publishing = asyncio.create_task(publisher.publish("sql", DirectorySource(directory, [directory])))
        await asyncio.wait({publishing}, timeout=seed * 0.0005)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        assert list(staging.directory.glob("*")) == []

    found = blobs_in(tmp_path / "blobs")
    assert found >= await registry.digests()
    for digest in found:
        await blobs.verify(digest)


async def test_a_checkpoint_is_published_under_its_name_with_what_training_reports(
    publisher: Publisher, registry: Registry, write_adapter: WriteAdapter
):
    directory = write_adapter()
    published = await publisher.publish(
        "sql",
        DirectorySource(directory, [directory]),
        PublishOptions(fine_tuned_name=CHECKPOINT, extra={"training": {"step": 1}}),
    )

    assert registry.catalog.resolve(CHECKPOINT) == published.version
    assert published.alias is None
    assert await registry.report(published.version) == {**REPORT.to_json(), "training": {"step": 1}}
    assert published.report == await registry.report(published.version)


async def test_a_checkpoint_that_was_published_is_not_looked_at_again(
    publisher: Publisher, write_adapter: WriteAdapter, tmp_path: Path
):
    directory = write_adapter()
    published = await publisher.publish(
        "sql", DirectorySource(directory, [directory]), PublishOptions(fine_tuned_name=CHECKPOINT)
    )
    nothing = DirectorySource(tmp_path / "missing", [])
    again = await publisher.publish(
        "sql", nothing, PublishOptions(fine_tuned_name=CHECKPOINT, extra={"training": {"step": 2}})
    )

    assert (again.version, again.alias, again.report) == (published.version, None, None)


async def test_a_checkpoint_that_two_publish_at_once_is_one_version(
    publisher: Publisher,
    registry: Registry,
    blobs: Blobs,
    staging: Staging,
    database_url: str,
    write_adapter: WriteAdapter,
):
    sources = [DirectorySource(path, [path]) for path in map(write_adapter, range(2))]
    async with Registry.open(database_url) as other:
        rival = Publisher(other, blobs, staging, admit_all)
        one, two = await asyncio.gather(
            publisher.publish("sql", sources[0], PublishOptions(fine_tuned_name=CHECKPOINT)),
            rival.publish("sql", sources[1], PublishOptions(fine_tuned_name=CHECKPOINT)),
        )
    assert one.version == two.version
    await registry.refresh()
    assert list(registry.catalog.adapter("sql").versions) == [1]


@pytest.mark.parametrize("point", CRASH_POINTS)
async def test_a_crash_at_any_point_loses_no_version_and_leaves_no_row_without_bytes(
    point: str, database_url: str, write_adapter: WriteAdapter, tmp_path: Path, process_clock: ProcessClock
):
    root, first, second = tmp_path / "blobs", write_adapter(1), write_adapter(2)
    died = subprocess.run(  # noqa: ASYNC221 - nothing else runs here
        [sys.executable, str(PROCESS), database_url, *map(str, (root, first, second)), point],
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert died.returncode == KILLED
    acknowledged = [line.split() for line in died.stdout.splitlines()]
    assert len(acknowledged) == 1

    blobs = Blobs(root)
    async with Registry.open(database_url) as registry:
        for number, digest in acknowledged:
            assert registry.catalog.adapter("sql").versions[int(number)].digest == digest
        for digest in await registry.digests():
            await blobs.verify(digest)

        orphans = blobs_in(root) - await registry.digests()
        assert orphans == ({Manifest.of(second).digest} if point == "publish.stored" else set())
        known = await registry.known_digests()
        await blobs.claim(await registry.installation(), known)
        assert await blobs.sweep(await registry.digests(), known, 0) == []
        process_clock.advance(UNKNOWN_GRACE_S)
        assert await blobs.sweep(await registry.digests(), known, 0) == sorted(orphans)
        assert blobs_in(root) == await registry.digests()
        assert list((root / "staging").iterdir()) == []

        publisher = Publisher(registry, blobs, Staging(root, max_bytes=10**6), admit_all)
        again = await publisher.publish("sql", DirectorySource(second, [second]), PublishOptions(alias="stable"))
        assert registry.catalog.resolve(Reference("sql")) == again.version
