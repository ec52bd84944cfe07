"""The version that an alias returns to when it is rolled back."""

from __future__ import annotations

from collections.abc import Iterable

from adapters.registry.rows import AliasMove


def rollback_target(history: Iterable[AliasMove], living: frozenset[int]) -> int | None:
    """Return the version that one rollback leads to, as a browser's back button would; None if there is none.

    A move pushes its target on a stack, a rollback pops down to its target, a deletion clears the stack. Versions not
    in ``living`` and steps to the present version are skipped.

        moves 1, 2, 3      back -> 2, back -> 1
        moves 1, 2, back, 3  back -> 1   (the rollback dropped 2 from the stack)
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
