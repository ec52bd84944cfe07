"""Whose adapters have slots: the project with the fewest gets the next one, and one with more gives one up.

Of projects with equally many, the one that has waited longest for a slot is first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from server.scheduling.adapter_queue import AdapterQueue, Project


def slots_of(queues: Iterable[AdapterQueue]) -> Counter[Project]:
    """Return the number of ``queues`` of each project."""
    return Counter(queue.project for queue in queues)


def next_to_open(queued: Iterable[AdapterQueue], held: Counter[Project]) -> AdapterQueue:
    """Return the queue that gets the next free slot: the first one of the project that is next.

    Args:
        queued: the queues without a slot, in order of arrival; at least one.
        held: slots that each project has.
    """
    return min(queued, key=lambda queue: (held[queue.project], queue.project.got_slot_at))


def queues_to_close(
    queued: Iterable[AdapterQueue],
    open_: Iterable[AdapterQueue],
    due: Iterable[AdapterQueue],
    *,
    count: int,
    coming: int,
) -> list[AdapterQueue]:
    """Return up to ``count`` of the queues that are ``due`` to give their slot up.

    A project gives slots up to itself, and to one that has fewer. Of those with the most slots the smallest queue goes
    first: it ends soonest, and the fewest of its requests wait.

    Args:
        queued: the queues without a slot, in order of arrival; at least one.
        open_: the queues that keep their slot so far.
        due: those of ``open_`` that may be closed.
        count: queues to close.
        coming: slots that fall free soon, because queues were closed before.
    """
    held, waiting, left = slots_of(open_), list(queued), list(due)
    for _ in range(coming):
        held[next_to_open(waiting, held).project] += 1
    closing = []
    for _ in range(count):
        heir = next_to_open(waiting, held).project
        givers = [queue for queue in left if queue.project is heir or held[queue.project] > held[heir]]
        if not givers:
            break
        giver = min(givers, key=lambda queue: (-held[queue.project], queue.taken + queue.waiting))
        held[giver.project] -= 1
        held[heir] += 1
        left.remove(giver)
        closing.append(giver)
    return closing
