"""A process that moves one alias by compare-and-set and prints what it saw. Run by test_alias_races."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

from adapters.errors import AliasMoved
from adapters.registry.registry import Registry


async def main(url: str, seed: int, num_moves: int, num_versions: int) -> None:
    draw = random.Random(seed)
    async with Registry.open(url) as registry:
        generation = registry.catalog.alias("sql", "stable").generation
        for _ in range(num_moves):
            target = draw.randint(1, num_versions)
            operation = {"target": target, "generation": generation, "began": time.monotonic_ns()}
            try:
                alias = await registry.move_alias("sql", "stable", target, generation=generation)
                operation |= {"won": True, "seen": [alias.version, alias.generation]}
            except AliasMoved as lost:
                operation |= {"won": False, "seen": [lost.current, lost.generation]}
            operation["ended"] = time.monotonic_ns()
            generation = operation["seen"][1]
            print(json.dumps(operation))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
