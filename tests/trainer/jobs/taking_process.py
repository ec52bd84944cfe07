"""A process that takes jobs until none is left and stalls now and then. Run by test_queue_races."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

from adapters.storage.database import Database
from trainer.errors import LeaseLost
from trainer.jobs.checkpoints import CheckpointDraft
from trainer.jobs.events import EventDraft
from trainer.jobs.job_store import JobStore
from trainer.jobs.queue import Claim, Queue

STALL_SHARE = 0.3


async def main(url: str, store: str, seed: int) -> None:
    draw, worker = random.Random(seed), f"worker-{seed}"
    stalled: list[Claim] = []
    async with Database.open(url) as database:
        queue, jobs = Queue(database, store, max_deaths=1000), JobStore(database, store)
        while True:
            stalls = draw.random() < STALL_SHARE
            claim = await queue.take(worker, 0 if stalls else 60)
            if claim is None:
                if all(job.finished_at for job in (await jobs.list(limit=1000)).data):
                    break
                await asyncio.sleep(0.01)  # another process has the last ones
            elif stalls:
                stalled.append(claim)
            else:
                await finish(queue, claim)
            if stalled and draw.random() < STALL_SHARE:
                await finish(queue, stalled.pop(0))
        for claim in stalled:
            await finish(queue, claim)


async def finish(queue: Queue, claim: Claim) -> None:
    model = f"{claim.job.id}-{claim.token}"
    try:
        await queue.record(claim, events=[EventDraft(model)], checkpoints=[CheckpointDraft(1, model, {})])
        await queue.succeed(claim, fine_tuned_model=model, trained_tokens=1)
        won = True
    except LeaseLost:
        won = False
    ended = {"job": claim.job.id, "token": claim.token, "won": won, "lease_s": claim.lease_s, "at": time.time()}
    print(json.dumps(ended))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
