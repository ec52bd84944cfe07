"""Where an alias goes when it is rolled back: its history replayed as a browser's back stack."""

from __future__ import annotations

from collections.abc import Iterable

from adapters.registry.rows import AliasMove


def before(history: Iterable[AliasMove], living: frozenset[int]) -> int | None:
    """Return the version that one step back leads to, None if there is none.

    A move puts its target on the stack; a rollback takes off what is above its target; a deletion empties it.
    Versions not in ``living`` and steps that lead to the present version are passed over.

        moves 1, 2, 3      back -> 2, back -> 1
        moves 1, 2, back, 3  back -> 1   (2 was left by going back)
    """
    stack: list[int] = []
    for move in history:
        if move.to_version is None:
            stack.clear()
        elif move.is_rollback:
            while stack[-1] != move.to_version:
                stack.pop()
        else:
            stack.append(move.to_version)
    present = stack.pop()
    return next((version for version in reversed(stack) if version in living and version != present), None)
