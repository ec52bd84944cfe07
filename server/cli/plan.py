"""``patchbay plan``: what slots and residents will take, before a server is started."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from server.cli.output import AsJson, format_bytes, show_fields, show_json, show_table
from server.cli.planned_base import read_base
from server.cli.settings import settings_from
from server.engine.vllm.flags import SLOTS
from server.slot_plan import Plan, Shapes

app = typer.Typer()

_RANKS: Final = (8, 16, 32, 64, 128)
_SLOTS: Final = (1, 4, 8, 16, 32)


@app.command("plan")
def plan(
    model: Annotated[str | None, typer.Argument(help="Base: a directory or a hub id; else the embedded one.")] = None,
    *,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    max_loras: Annotated[int, typer.Option(min=1, help="Slots: adapters that share a batch.")] = SLOTS,
    max_lora_rank: Annotated[int, typer.Option(min=1, help="The largest rank that a slot takes.")] = 16,
    max_residents: int | None = None,
    max_resident_bytes: int | None = None,
    as_json: AsJson = False,
) -> None:
    """Tell what slots and residents will take, in bytes and in tokens of KV cache, and how many of them to have.

    From the base model's config and the headers of its files; a hub's weights are not fetched. Slots of some
    architectures take a little less: vLLM gives a LoRA to the embedding and the head of most, and here it is counted
    for all.
    """
    settings = settings_from(max_residents=max_residents, max_resident_bytes=max_resident_bytes)
    shapes = Shapes.of(*read_base(model or _embedded_base(), revision))
    planned = Plan(shapes, max_loras, max_lora_rank, settings.max_residents, settings.resident_bytes)
    if as_json:
        show_json(planned.to_json())
    else:
        _show(planned)


def _embedded_base() -> str:
    import embedded

    return str(embedded.BASE)


def _show(planned: Plan) -> None:
    numbers = planned.to_json()
    slots = f"{format_bytes(numbers['slot_bytes'])}, or {numbers['slot_kv_tokens']} tokens of KV cache"
    resident = f"{format_bytes(planned.resident_bytes)} of host memory at rank {planned.rank} on every linear module"
    show_fields(
        {
            "base model": f"{format_bytes(numbers['weights_bytes'])} of weights",
            "KV cache": f"{format_bytes(numbers['kv_bytes_per_token'])} a token",
            f"{planned.slots} slots": slots,
            "a resident": resident,
            "residents": f"{planned.fitting_residents} of them in the {format_bytes(planned.host)} they may take",
        }
    )
    typer.echo()
    rows = [[rank, *(_cost(planned, slots, rank) for slots in _SLOTS)] for rank in _RANKS]
    show_table(["RANK", *(f"{slots} SLOTS" if slots > 1 else "1 SLOT" for slots in _SLOTS)], rows)
    typer.echo()
    show_fields(
        {
            "recommended": f"--max-loras {numbers['recommended_slots']} --max-lora-rank {planned.rank} "
            f"--max-residents {numbers['recommended_residents']}"
        }
    )


def _cost(planned: Plan, slots: int, rank: int) -> str:
    taken = planned.slot_bytes(slots, rank)
    return f"{format_bytes(taken)} ({planned.tokens(taken)} tokens)"
