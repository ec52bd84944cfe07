"""``patchbay plan``: memory that slots and residents will need, computed before a server is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from server.cli.output import AsJson, format_bytes, show_fields, show_json, show_table
from server.cli.settings import settings_command, settings_of
from server.slot_plan import SLOTS

if TYPE_CHECKING:
    from server.slot_plan import Plan

app = typer.Typer()

_RANKS: Final = (8, 16, 32, 64, 128)
_SLOTS: Final = (1, 4, 8, 16, 32)


@app.command("plan", cls=settings_command("model", "max_residents", "max_resident_bytes"), rich_help_panel="Serve")
def plan(
    ctx: typer.Context,
    *,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub id; without it, the default branch.")
    ] = None,
    max_loras: Annotated[int, typer.Option(min=1, help="Slots of vLLM: adapters that can share a batch.")] = SLOTS,
    max_lora_rank: Annotated[int, typer.Option(min=1, help="Largest rank that a slot holds.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Compute the memory that slots and residents will need, and recommend how many to have.

    Reads the base model's config and the headers of its files; weights on a hub are not downloaded. Counts LoRA on the
    embedding and the head for every architecture, as vLLM has it for most; slots of the others need a little less.
    """
    import embedded
    from server.cli.base_model import read_base
    from server.slot_plan import Plan, Shapes

    settings = settings_of(ctx)
    shapes = Shapes.of(*read_base(settings.model or str(embedded.BASE), revision))
    planned = Plan(shapes, max_loras, max_lora_rank, settings.max_residents, settings.resident_bytes)
    if as_json:
        show_json(planned.to_json())
    else:
        _show(planned)


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
            "residents": f"{planned.fitting_residents} fit in the limit of {format_bytes(planned.resident_limit)}",
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
    size = planned.slot_bytes(slots, rank)
    return f"{format_bytes(size)} ({planned.tokens(size)} tokens)"
