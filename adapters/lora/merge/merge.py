"""Merges versions as a recipe says: ``linear`` in this process, TIES and DARE through PEFT in a child process."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from adapters.base_model import BaseModel
from adapters.errors import AdapterRefused, AdapterTooCostly, Fault, WorkerProcessDied
from adapters.lora.canonical_form import CanonicalForm, write
from adapters.lora.factors import Factors, Spectrum, TruncationLoss
from adapters.lora.merge.recipe import MergeMethod, MergeRecipe
from adapters.lora.ranks import rank_fault
from adapters.lora.stored_lora import LinearSum, StoredLora
from adapters.processes import line_process
from adapters.processes.limits import LimitExceeded, ResourceLimits
from adapters.storage.disk import in_thread, space_needed

WHERE: Final = "merge"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MergeBounds:
    """The merged version must fit the served base model and the largest rank of its engine.

    ``resource_limits`` are those of the child process that runs PEFT.
    """

    base: BaseModel
    max_rank: int
    resource_limits: ResourceLimits


async def merge(recipe: MergeRecipe, directories: Sequence[Path], out: Path, bounds: MergeBounds) -> dict[str, Any]:
    """Write the merged version's two files into ``out``, and return the report of the merge.

    ``directories`` have the ingredients' files, in their order. The same recipe writes the same bytes.

    Raises:
        AdapterRefused: the rank is too large for the server, or the method cannot combine these versions.
        AdapterTooCostly: the child process took more than ``bounds.resource_limits``.
        WorkerProcessDied: the child process ended without a result.
        StorageFull: the disk has no space left.
    """
    weights = [each.weight for each in recipe.ingredients]
    used = [(directory, weight) for directory, weight in zip(directories, weights, strict=True) if weight]
    terms = await in_thread(LinearSum.open, used)
    declared = terms.loras[0].config.base_model_name_or_path
    if recipe.method is MergeMethod.LINEAR:
        return await in_thread(_write, recipe, terms, declared, out, bounds)
    _check_ranks(recipe.method, terms.loras)
    combined = out / "combined"
    with space_needed(out):
        await in_thread(combined.mkdir)
    try:
        await _through_peft(recipe, used, combined, bounds.resource_limits)
        merged = await in_thread(LinearSum.open, [(combined, 1.0)])
        return await in_thread(_write, recipe, merged, declared, out, bounds)
    finally:
        await in_thread(shutil.rmtree, combined, ignore_errors=True)


def _write(
    recipe: MergeRecipe, merged: LinearSum, declared: str | None, out: Path, bounds: MergeBounds
) -> dict[str, Any]:
    rank = min(merged.rank, recipe.compress_to or merged.rank)
    if rank > bounds.max_rank:
        raise AdapterRefused([_too_large(merged, rank, bounds)], param="versions")
    loss = TruncationLoss(rank)

    def factors_of(module: str) -> Factors:
        factors = merged.read(module)
        if rank == merged.rank:
            return factors
        spectrum = Spectrum.of(factors)
        loss.add(module, spectrum)
        return spectrum.cut(rank)

    base = bounds.base
    with space_needed(out):
        rounding = write(out, CanonicalForm(merged.shapes, rank, base.dtype, base.modules, declared), factors_of)
    return {**recipe.to_json(), "rank_before": merged.rank, **loss.to_json(), "rounding": rounding}


def _too_large(merged: LinearSum, rank: int, bounds: MergeBounds) -> Fault:
    loss = TruncationLoss.of(((module, Spectrum.of(merged.read(module))) for module in merged.shapes), bounds.max_rank)
    found = "" if rank < merged.rank else f", the sum of {' + '.join(map(str, merged.ranks))}"
    otherwise = f"merge with compress_to {loss.rank}, which changes the merged weights by {loss}"
    return rank_fault(WHERE, rank, bounds.max_rank, otherwise, found=found)


def _check_ranks(method: MergeMethod, loras: Sequence[StoredLora]) -> None:
    """Refuse versions of different ranks: PEFT's methods combine the factors element by element."""
    ranks = sorted({rank for lora in loras for _, rank, _ in lora.shapes.values()})
    if len(ranks) > 1:
        found = f"versions of the ranks {', '.join(map(str, ranks))}"
        needed = f"one rank for {method}: merge linear, or with versions of the same rank"
        raise AdapterRefused([Fault(WHERE, found, needed)], param="versions")


async def _through_peft(
    recipe: MergeRecipe, used: Sequence[tuple[Path, float]], out: Path, resource_limits: ResourceLimits
) -> None:
    request = {
        "terms": [[str(directory), weight] for directory, weight in used],
        "method": recipe.method,
        "density": recipe.density,
        "seed": recipe.seed,
        "out": str(out),
    }
    try:
        await line_process.run("adapters.compile.peft_merge", request, threads=1, limits=resource_limits)
    except LimitExceeded as exceeded:
        raise AdapterTooCostly(
            f"merging took more than {exceeded}: merge fewer versions or linear, or give the server more "
            "(--max-compile-bytes, --max-compile-s)"
        ) from None
    except WorkerProcessDied as died:
        log.error("a merge died", method=recipe.method, reason=died.message, log=died.log)
        raise
