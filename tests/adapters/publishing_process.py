"""A process that publishes two versions and dies at an ordered point of the second. Run by test_publisher."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.blobs import Blobs
from adapters.faults import Faults
from adapters.publisher import Publisher
from adapters.registry import Registry
from adapters.sources.directory import DirectorySource
from adapters.staging import Staging


@dataclass(frozen=True)
class Report:
    rank: int = 8
    size_bytes: int = 5000
    base_fingerprint: str = "base"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


async def main(url: str, root: Path, first: Path, second: Path, point: str) -> None:
    async with Registry.open(url) as registry:
        for directory, faults in ((first, Faults()), (second, Faults(point))):
            publisher = Publisher(
                registry, Blobs(root), Staging(root, max_bytes=10**6), lambda _: Report(), faults=faults
            )
            published = await publisher.publish("sql", DirectorySource(directory, [directory]))
            print(published.version.number, published.version.digest, flush=True)


if __name__ == "__main__":
    url, root, first, second, point = sys.argv[1:]
    asyncio.run(main(url, Path(root), Path(first), Path(second), point))
