"""A process that publishes two versions and dies at an ordered point of the second. Run by test_publisher."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from adapters.checks.canonicalizer import Canonical
from adapters.checks.inspection import InspectionReport
from adapters.crash_points import CrashPoints
from adapters.publisher import Publisher
from adapters.registry.registry import Registry
from adapters.sources.directory import DirectorySource
from adapters.storage.blobs import Blobs
from adapters.storage.staging import Staging

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


async def admit_all(_: Path, __: Path) -> Canonical:
    return Canonical(REPORT, None)


async def main(url: str, root: Path, first: Path, second: Path, point: str) -> None:
    async with Registry.open(url) as registry:
        for directory, crash in ((first, CrashPoints()), (second, CrashPoints(point))):
            publisher = Publisher(registry, Blobs(root), Staging(root, max_bytes=10**6), admit_all, crash_points=crash)
            published = await publisher.publish("sql", DirectorySource(directory, [directory]))
            print(published.version.number, published.version.digest, flush=True)


if __name__ == "__main__":
    url, root, first, second, point = sys.argv[1:]
    asyncio.run(main(url, Path(root), Path(first), Path(second), point))
