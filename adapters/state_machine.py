"""State machines: the states of an enum, and the verbs that lead from one state to another.

The docstring of a module that has a machine draws it, one verb a line; the names are those of the enum's members:

    QUEUED, RUNNING → CANCELLED   cancel: by the caller

``tests/adapters/test_state_machine.py`` compares each drawing with the machine below it.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Generic, TypeVar

S = TypeVar("S", bound=StrEnum)
V = TypeVar("V", bound=str)


class StateMachine(Generic[S, V]):
    """The allowed moves between states; the current state is kept by the caller.

    Args:
        states: the enum of all states.
        moves: for each verb, the states it is allowed in and the state it leads to from each.
    """

    def __init__(self, states: type[S], moves: Mapping[V, Mapping[S, S]]) -> None:
        self.moves: Mapping[V, Mapping[S, S]] = MappingProxyType(dict(moves))
        self.terminal = frozenset(states) - {source for edges in moves.values() for source in edges}
        """The states that no verb leads out of."""
        self._targets = {
            source: frozenset(edges[source] for edges in moves.values() if source in edges) for source in states
        }

    def verbs(self, state: S) -> list[V]:
        return [verb for verb, edges in self.moves.items() if state in edges]

    def move(self, state: S, target: S) -> S:
        """Return ``target``; AssertionError if no verb leads there from ``state``: the mistake is in this program."""
        if target not in self._targets[state]:
            raise AssertionError(f"{type(state).__name__}: no verb leads from {state} to {target}")
        return target
