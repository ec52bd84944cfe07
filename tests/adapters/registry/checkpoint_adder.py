"""A process that adds the checkpoints of one job and prints what each became. Run by test_fine_tuned_names."""

from __future__ import annotations

import asyncio
import sys

from adapters.names import FineTunedName
from adapters.registry.registry import Registry


async def main(url: str, process: int, num_steps: int) -> None:
    async with Registry.open(url) as registry:
        print("ready", flush=True)
        sys.stdin.readline()
        for step in range(1, num_steps + 1):
            version = await registry.add_version(
                "sql",
                digest=f"{process:064}",
                base_fingerprint="base",
                rank=8,
                size_bytes=1,
                source="job:ftjob-race",
                report={},
                fine_tuned_name=FineTunedName.of("base", "patchbay", "sql", "race", step),
            )
            print(step, version.id, version.number, version.digest)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
