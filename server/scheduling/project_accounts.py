"""Which project, and which of its adapters, has the next turn.

The project that has used the fewest tokens is next, and within it its lines in rounds (deficit round robin). Both are
charged afterwards. A project whose adapters have no slot for a while is served more later, by a bounded number of
tokens: it keeps no others out for long. So that each turn is given in the end, one of several of a project is its
oldest, and one of several is the oldest of the projects that are not far ahead: a project that gets its share on the
base model would else be first too seldom while one of its adapters has a slot.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from server.scheduling.adapter_queue import AdapterQueue, Project, ProjectLine, QueueState, Turn

TOKENS_PER_ROUND: Final = 64
"""Tokens that each line gets in a round: about a short answer, so that a new request waits for few others."""

OLDEST_EVERY: Final = 8
"""Of so many turns, while several projects have some, one is the oldest, and so it is with those of a project."""
GOLDEN: Final = (5**0.5 - 1) / 2
"""Its multiples modulo 1 are spread evenly and have no period, which slots could have too."""
AHEAD: Final = 2
"""A project is far ahead once it is so by one part of two of what a project may be behind: were the oldest turn taken
however far ahead its project is, one with long answers would get more tokens than others."""


class ProjectAccounts:
    """The projects that have turns, and the lines in which those turns are."""

    def __init__(self) -> None:
        self._projects: dict[str, Project] = {}
        self._chosen = 0
        """Turns that were given after a wait while several projects had some."""
        self._next: Turn | None = None
        """The turn that was chosen and waits for as many places as it has sequences."""

    @property
    def most_used(self) -> float:
        """Tokens that one of the projects that wait has used, at most."""
        return max((project.used for project in self._projects.values() if project.waiting), default=0.0)

    def line(self, queue: AdapterQueue, project: str) -> ProjectLine:
        """Return the line of ``project`` in ``queue``; a new one where it has none."""
        line = queue.lines.get(project)
        if line is None:
            account = self._projects.get(project)
            if account is None:
                account = self._projects[project] = Project(project)
            line = queue.lines[project] = ProjectLine(queue, account)
            account.lines.add(line)
        return line

    def drop_if_empty(self, line: ProjectLine) -> None:
        """Forget ``line`` if it has no turns, and its project with its last line."""
        if line.taken or line.waiting:
            return
        project = line.project
        del line.queue.lines[project.name]
        project.lines.remove(line)
        if not project.lines:
            del self._projects[project.name]

    def wait(self, turn: Turn) -> None:
        """Add ``turn`` to those that wait. A project that did not wait before has no credit."""
        line = turn.line
        project = line.project
        if not project.waiting:
            used = [other.used for other in self._projects.values() if other.waiting]
            if used:
                project.used = max(project.used, min(used))
            else:
                self._begin_equal()
        line.waiting.append(turn)
        line.queue.waiting += 1
        project.waiting += 1

    def stop_waiting(self, turn: Turn) -> None:
        """Remove ``turn`` from those that wait."""
        line = turn.line
        if turn is self._next:
            self._next = None
        line.waiting.remove(turn)
        line.queue.waiting -= 1
        line.project.waiting -= 1

    def next_turn(self, queues: Iterable[AdapterQueue], *, most_behind: float) -> Turn | None:
        """Return the turn of ``queues`` that is next, the same one until it waits no more; None where nothing waits.

        ``most_behind``: tokens that a waiting project may be behind another one.
        """
        if self._next is not None and self._next.queue.state is QueueState.OPEN:
            return self._next
        ready = [line for queue in queues if queue.waiting for line in queue.lines.values() if line.waiting]
        if not ready:
            return None
        self._next = self._choose(ready, most_behind)
        return self._next

    def _choose(self, ready: list[ProjectLine], most_behind: float) -> Turn:
        if len(self._projects) > 1:
            least = self.most_used - most_behind
            for project in self._projects.values():
                project.used = max(project.used, least)
            first = min((line.project for line in ready), key=lambda project: project.used)
            self._chosen += 1
            if self._chosen * GOLDEN % 1 < 1 / OLDEST_EVERY:
                most_used = first.used + most_behind / AHEAD
                near = (line.waiting[0] for line in ready if line.project.used <= most_used)
                return min(near, key=lambda turn: turn.requested_at)
            ready = [line for line in ready if line.project is first]
            first.chosen += 1
            if first.chosen * GOLDEN % 1 < 1 / OLDEST_EVERY:
                return min((line.waiting[0] for line in ready), key=lambda turn: turn.requested_at)
        return _next(ready).waiting[0]

    def _begin_equal(self) -> None:
        """Clear all accounts, because a first turn begins to wait: until then, no project lost what others used."""
        for project in self._projects.values():
            project.used = 0
            for line in project.lines:
                line.balance = 0


def _next(lines: list[ProjectLine]) -> ProjectLine:
    """Return the first line with tokens left in this round; where none has any, start the next round."""
    if all(line.balance <= 0 for line in lines):
        rounds = min(-line.balance // TOKENS_PER_ROUND + 1 for line in lines)
        for line in lines:
            line.balance += rounds * TOKENS_PER_ROUND
    return next(line for line in lines if line.balance > 0)
