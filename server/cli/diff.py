"""``patchbay adapters diff``: compares the weight changes and the answers of two versions."""

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
    a: Annotated[str, typer.Argument(metavar="A", help="First version: sql@7, sql@canary, sql, or ft:…")],
    b: Annotated[str, typer.Argument(metavar="B", help="Second version, in the same forms.")],
    *,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Compare two versions: their weight changes layer by layer, largest difference first, and their answers.

    ANSWERS is the difference of log-probabilities on fixed prompts, in nats: between the versions, and from each to the
    base model. RELATIVE is DISTANCE divided by the larger norm. OUTPUTS and INPUTS are the overlaps of the subspaces
    written to and read from, from 0 to 1. --json lists every module.
    """
    with connect(url, api_key) as server, spinner("comparing"):
        comparison = server.post("/v1/adapters/diff", {"a": a, "b": b})
    if as_json:
        show_json(comparison)
        return
    show_fields({"A": comparison["a"], "B": comparison["b"], **_answers(comparison)})
    typer.echo()
    layers = [*comparison["layers"], {"layer": "all", **comparison["total"]}]
    show_table(_COLUMNS, [_row(layer["layer"], layer) for layer in layers])


def _answers(comparison: Json) -> Json:
    if comparison["answers"] is None:
        return {"ANSWERS": "; ".join(comparison["notes"])}
    words = {"distance": "A to B", "effect_a": "A to base", "effect_b": "B to base"}
    return {
        f"ANSWERS {words[name]}": f"{difference['mean']:.4g} mean, {difference['max']:.4g} max"
        for name, difference in comparison["answers"].items()
        if name in words
    }


def _row(name: str, numbers: Json) -> list[object]:
    return [name, *(None if numbers[key] is None else f"{numbers[key]:.4g}" for key in _NUMBERS)]
