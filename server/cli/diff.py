"""``patchbay adapters diff``: how two versions differ in what they add to the base model's weights."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from server.cli.client import ApiKey, Json, Url, connect
from server.cli.output import AsJson, show_fields, show_json, show_table, spinner

_COLUMNS: Final = ["LAYER", "NORM A", "NORM B", "DISTANCE", "RELATIVE", "COSINE", "OUTPUTS", "INPUTS"]
_NUMBERS: Final = (
    *("norm_a", "norm_b", "distance", "relative_distance"),
    *("cosine", "output_overlap", "input_overlap"),
)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="sql@7, sql@canary, sql, or a fine-tuned name, ft:…")],
    b: Annotated[str, typer.Argument(metavar="B", help="The version to compare it with.")],
    *,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Compare what two versions add to the base model's weights, the layers that differ most first, and their answers.

    ANSWERS is the difference of log-probabilities on fixed prompts, in nats: of both versions, and of each to the base.
    RELATIVE is the distance by the larger norm. OUTPUTS and INPUTS tell how far both write to and read from the same
    directions, from 0 to 1. --json has every module.
    """
    with connect(url, api_key) as server, spinner("comparing"):
        found = server.post("/v1/adapters/diff", {"a": a, "b": b})
    if as_json:
        show_json(found)
        return
    show_fields({"A": found["a"], "B": found["b"], **_answers(found)})
    typer.echo()
    show_table(_COLUMNS, [_row(each["layer"], each) for each in [*found["layers"], {"layer": "all", **found["total"]}]])


def _answers(found: Json) -> Json:
    if found["answers"] is None:
        return {"ANSWERS": "; ".join(found["notes"])}
    words = {"distance": "A to B", "effect_a": "A to base", "effect_b": "B to base"}
    return {
        f"ANSWERS {words[name]}": f"{each['mean']:.4g} mean, {each['max']:.4g} max"
        for name, each in found["answers"].items()
        if name in words
    }


def _row(name: str, numbers: Json) -> list[object]:
    return [name, *(None if numbers[key] is None else f"{numbers[key]:.4g}" for key in _NUMBERS)]
