"""The state machine, and every drawing of one in the product against the machine below it."""

from __future__ import annotations

import importlib
import re
from enum import StrEnum
from pathlib import Path
from types import ModuleType

import pytest

from adapters.state_machine import StateMachine

ROOT = Path(__file__).parents[2]
DRAWN_MOVE = re.compile(r"^ *([A-Z_]+(?:, [A-Z_]+)*) → ([A-Z_]+) +([a-z_]+)(?:: .+)?$", re.MULTILINE)

Move = tuple[str, str, str]
"""Source, target, verb."""


class Lamp(StrEnum):
    ON = "on"
    OFF = "off"
    BROKEN = "broken"


LAMP = StateMachine(
    Lamp,
    {
        "switch_off": {Lamp.ON: Lamp.OFF},
        "switch_on": {Lamp.OFF: Lamp.ON},
        "break": {Lamp.ON: Lamp.BROKEN, Lamp.OFF: Lamp.BROKEN},
    },
)
DRAWING = """A lamp.

    ON → OFF            switch_off
    OFF → ON            switch_on: by hand → or by its timer
    ON, OFF → BROKEN    break
"""


def drawn(text: str | None) -> list[Move]:
    """Return the moves that a docstring draws."""
    return sorted(
        (source, target, verb)
        for sources, target, verb in DRAWN_MOVE.findall(text or "")
        for source in sources.split(", ")
    )


def coded(*machines: StateMachine[StrEnum, str]) -> list[Move]:
    return sorted(
        (source.name, target.name, str(verb))
        for machine in machines
        for verb, edges in machine.moves.items()
        for source, target in edges.items()
    )


def modules_with_machines() -> list[str]:
    paths = [path for package in ("adapters", "server", "trainer") for path in (ROOT / package).rglob("*.py")]
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in paths
        if "= StateMachine(" in path.read_text()
    )


def machines_of(module: ModuleType) -> list[StateMachine[StrEnum, str]]:
    return [value for value in vars(module).values() if isinstance(value, StateMachine)]


def test_a_machine_lists_its_verbs_and_the_states_without_any():
    assert LAMP.verbs(Lamp.ON) == ["switch_off", "break"]
    assert LAMP.verbs(Lamp.BROKEN) == []
    assert LAMP.terminal == {Lamp.BROKEN}


def test_a_machine_moves_along_its_edges_only():
    assert LAMP.move(Lamp.ON, Lamp.OFF) is Lamp.OFF
    with pytest.raises(AssertionError, match="Lamp: no verb leads from broken to on"):
        LAMP.move(Lamp.BROKEN, Lamp.ON)


def test_the_product_has_six_modules_with_machines():
    assert modules_with_machines() == [
        "adapters.rollout",
        "server.batches.state",
        "server.current_engine",
        "server.residency.entry",
        "server.scheduling.adapter_queue",
        "trainer.evals.state",
        "trainer.jobs.state",
    ]


@pytest.mark.parametrize("name", modules_with_machines())
def test_each_drawing_is_its_machine(name: str):
    module = importlib.import_module(name)
    assert drawn(module.__doc__) == coded(*machines_of(module))


def test_a_right_drawing_passes():
    assert drawn(DRAWING) == coded(LAMP)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("    ON → OFF            switch_off\n", ""),
        ("ON, OFF → BROKEN", "OFF → BROKEN"),
        ("OFF → ON", "OFF → BROKEN"),
        ("break", "smash"),
        ("ON → OFF ", "BROKEN → OFF "),
        ("A lamp.\n", "A lamp.\n    BROKEN → ON   mend\n"),
    ],
)
def test_a_wrong_drawing_fails(right: str, wrong: str):
    assert right in DRAWING
    assert drawn(DRAWING.replace(right, wrong)) != coded(LAMP)
