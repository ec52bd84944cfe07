"""What `patchbay plan` foretells is what the real engine sets aside."""

from __future__ import annotations

import embedded
from server.cli.base_model import read_base
from server.slot_plan import SLOTS, Plan, Shapes

RANK = 16


async def test_the_slots_of_a_running_engine_take_what_was_planned(http):
    page = (await http.get("/metrics")).text
    gauges = {line.split()[0]: float(line.split()[1]) for line in page.splitlines() if line.startswith("patchbay_slot")}
    planned = Plan(Shapes.of(*read_base(str(embedded.BASE), None)), SLOTS, RANK, residents=64, resident_limit=2**30)
    assert gauges["patchbay_slots"] == SLOTS
    assert gauges["patchbay_slot_bytes"] == planned.slot_bytes(SLOTS, RANK)
