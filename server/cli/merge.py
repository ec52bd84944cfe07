"""``patchbay adapters merge``: publishes a weighted combination of versions."""

import re
from typing import Annotated, Final

import typer

from adapters.lora.merge.recipe import MergeMethod
from adapters.names import check_adapter_name, check_alias
from server.cli.client import ApiKey, Json, Url, connect, without_none
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import AsJson, show_json, show_note, show_publication, spinner

AliasToMove = Annotated[str | None, typer.Option(help="Alias to point to the new version; without it, none.")]

_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,2})?", re.ASCII)


def merge(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Adapter to publish the result to, as its next version.")],
    parts: Annotated[
        list[str],
        typer.Argument(metavar="REF:WEIGHT...", help="Such as sql@1:0.5 json@canary:0.5; a negative weight subtracts."),
    ],
    *,
    method: Annotated[
        MergeMethod, typer.Option(help="linear is the exact weighted sum; the others are PEFT's.")
    ] = MergeMethod.LINEAR,
    density: Annotated[float | None, typer.Option(help="ties, dare: share of numbers to keep. Default: 0.5.")] = None,
    seed: Annotated[int | None, typer.Option(help="dare: seed of the choice of numbers. Default: 0.")] = None,
    compress_to: Annotated[
        int | None, typer.Option(metavar="RANK", help="Reduce to this rank and print the error; without it, lossless.")
    ] = None,
    alias: AliasToMove = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Publish a weighted combination of versions as a new version."""
    body: Json = {"versions": [_ingredient(part) for part in parts], "method": method}
    alias = alias if alias is None else check_alias(alias)
    body |= without_none(density=density, seed=seed, compress_to=compress_to, alias=alias)
    with connect(url, api_key) as server, spinner("merging"):
        version = server.post(f"/v1/adapters/{check_adapter_name(name)}/merge", body)
    if as_json:
        show_json(version)
        return
    show_publication(version)
    merged = version["report"]["merge"]
    if merged["rank"] < merged["rank_before"]:
        show_note(
            f"reduced from rank {merged['rank_before']}: the change of the weights differs by {merged['error']:.3%}"
        )


def _ingredient(part: str) -> Json:
    reference, _, weight = part.rpartition(":")
    if not _NUMBER.fullmatch(weight):
        raise CommandFailed(ExitCode.USAGE, f"'{part}' has no weight; write REF:WEIGHT, such as sql@1:0.5")
    return {"reference": reference, "weight": float(weight)}
