"""The low-rank adapter of a fully trained model: cut out of the change to its weights, and compared with the model."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from datasets import Dataset
from torch import Tensor

from adapters.compile.spectra import leading_spectrum
from adapters.compile.weights import BaseWeights
from adapters.errors import BaseModelUnreadable
from adapters.lora.canonical_form import CanonicalForm, write
from adapters.lora.factors import Spectrum, TruncationLoss, percentage, rank_within
from adapters.lora.stored_lora import StoredLora
from adapters.storage.number_formats import WEIGHT_DTYPES
from trainer.endings import BaseRefused, NotFinite
from trainer.methods import base_model
from trainer.methods.checkpoints import best_of
from trainer.methods.whole_model import write_model
from trainer.options import AUTO
from trainer.rendering import token_rows
from trainer.run_directory import RunCheckpoint, RunDirectory, RunEvent
from trainer.run_spec import RunSpec

MOST_ROWS: Final = 64
"""Rows that the models are compared on."""
MOST_TOKENS: Final = 2048
MOST_NUMBERS: Final = 2**26
"""Logits of each model: a quarter of a gigabyte."""
MOST_CONTEXT: Final = 4096
"""Tokens of a row that are read; the logits of those are what they are with the rest."""

Weights = Mapping[str, Tensor]
"""By the names of modules."""


class Extraction:
    """Exports the checkpoints of a fully trained model; see ``trainer.methods.checkpoints.Export``.

    Args:
        run: its earlier checkpoints tell whether one is the best so far.
        spec: the rank and energy of the adapter, and the base that serves.
        rows: what the models are compared on; held-out rows, if there are any.

    Raises:
        BaseRefused: the base's weights cannot be read.
    """

    def __init__(self, run: RunDirectory, spec: RunSpec, rows: Dataset) -> None:
        self._run = run
        self._rows = list(_chosen(rows, spec))
        try:
            self._base = BaseWeights(spec.base)
        except BaseModelUnreadable as unreadable:
            raise BaseRefused(unreadable.message) from unreadable

    def __call__(self, model: Any, staged: RunCheckpoint, spec: RunSpec) -> Mapping[str, float]:
        """Write the adapter, the report on it, and the whole model if no checkpoint is better.

        Raises:
            BaseRefused: the base's files have other names or formats than its modules.
            NotFinite: a weight is not a finite number.
        """
        weights = _changed(model, spec)
        self._check(weights, staged)
        report = self._extract(weights, staged.adapter, spec, model)
        report |= {"rows": len(self._rows), "measured_on": "validation" if spec.validation_file else "training"}
        report |= self._compare(model, weights, staged.adapter)
        staged.extraction_file.write_text(json.dumps(report, allow_nan=False))
        is_known = spec.validation_file is not None or staged.marker.last
        if is_known and best_of([*self._run.checkpoints(), staged], spec.method) is staged:
            write_model(staged.model, spec, {f"{name}.weight": weight.cpu() for name, weight in weights.items()})
        named = ("rank", "energy", "logit_error", "agreement")
        return {f"extraction_{name}": report[name] for name in named} | {"extraction_loss": report["losses"]["adapter"]}

    def _check(self, weights: Weights, staged: RunCheckpoint) -> None:
        dtypes = self._base.dtypes
        for name, weight in weights.items():
            stored = dtypes.get(f"{name}.weight")
            if stored not in WEIGHT_DTYPES:
                found = f"stores its weight as {stored}" if stored else "has no weight of that name"
                raise BaseRefused(f"an adapter of {name} cannot be extracted: the base {found}; train a LoRA instead")
            if not bool(torch.isfinite(weight).all()):
                raise NotFinite("a weight of the model", staged.step)

    def _extract(self, weights: Weights, adapter: Path, spec: RunSpec, model: Any) -> dict[str, Any]:
        """Write the adapter; return its rank and the shares of the squared change that it keeps."""
        spectra: dict[str, Spectrum] = {}
        rounding = _Ratio()
        for name, weight in weights.items():
            base = self._stored(name).to(weight.device)
            change = weight.double() - base.double()
            rounding.add(weight.to(base.dtype).double() - weight.double(), change)
            spectra[name] = leading_spectrum(change, spec.rank)
        rank = min(spec.rank, max(min(weight.shape) for weight in weights.values()))
        wanted = 1.0 if spec.extraction_energy == AUTO else spec.extraction_energy
        enough = rank_within(spectra.values(), math.sqrt(1 - wanted)) if wanted < 1 else rank
        rank = min(rank, enough)
        shapes = {name: (weight.shape[0], weight.shape[1]) for name, weight in weights.items()}
        dtype, modules = base_model.export_dtype(spec), base_model.linear_modules(model)
        form = CanonicalForm(shapes, rank, dtype, modules, spec.base.name)
        adapter_rounding = write(adapter, form, lambda name: spectra[name].cut(rank))
        whole = TruncationLoss.of(spectra.items(), rank)
        targets: defaultdict[str, dict[str, Spectrum]] = defaultdict(dict)
        for name, spectrum in spectra.items():
            targets[name.rpartition(".")[2]][name] = spectrum
        return {
            "rank": rank,
            "energy": _kept(whole.error),
            "wanted_energy": None if spec.extraction_energy == AUTO else wanted,
            "worst_energy": _kept(whole.worst_error),
            "worst_module": whole.worst_module,
            "targets": {
                target: _kept(TruncationLoss.of(alike.items(), rank).error) for target, alike in sorted(targets.items())
            },
            "adapter_rounding": adapter_rounding,
            "model_rounding": rounding.value,
        }

    def _compare(self, model: Any, weights: Weights, adapter: Path) -> dict[str, Any]:
        """Return the adapter's fidelity: its logits and loss beside those of base and model as they are stored."""
        lora = StoredLora.open(adapter)
        with _restored(model, weights):
            for name, weight in weights.items():
                weight.copy_(weight.to(self._stored(name).dtype))
            full, labels = self._logits(model)
            for name, weight in weights.items():
                weight.copy_(self._stored(name))
            plain, _ = self._logits(model)
            for name, weight in weights.items():
                factors = lora.read(name)
                weight += torch.from_numpy(factors.b @ factors.a).to(weight.device)
            extracted, _ = self._logits(model)
        logits = {"base": plain, "full": full, "adapter": extracted}
        likeliest = {name: each.argmax(-1) for name, each in logits.items()}
        error = _Ratio()
        error.add(extracted - full, full - plain)
        return {
            "tokens": len(labels),
            "logit_error": error.value,
            "agreement": float((likeliest["adapter"] == likeliest["full"]).double().mean()),
            "base_agreement": float((likeliest["base"] == likeliest["full"]).double().mean()),
            "losses": {name: float(torch.nn.functional.cross_entropy(each, labels)) for name, each in logits.items()},
        }

    def _stored(self, module: str) -> Tensor:
        """Return the base's weight as its files have it."""
        return self._base.read(f"{module}.weight")

    def _logits(self, model: Any) -> tuple[Tensor, Tensor]:
        """Return the logits [tokens, vocabulary] before the trained tokens of the rows, and those tokens."""
        found = []
        for ids, places in self._rows:
            inputs = torch.tensor([ids], device=model.device)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
                logits = model(input_ids=inputs, use_cache=False).logits[0]
            found.append(logits[[place - 1 for place in places]].float().cpu())
        labels = [ids[place] for ids, places in self._rows for place in places]
        return torch.cat(found), torch.tensor(labels)


def extraction_event(step: int, report: Mapping[str, Any]) -> RunEvent:
    """Return the event that says what an extracted adapter keeps of the model; a warning if less than was asked for."""
    losses, wanted, worst = report["losses"], report["wanted_energy"], report["worst_module"]
    least = f" (least: {percentage(report['worst_energy'])} of {worst})" if worst else ""
    message = (
        f"The adapter of step {step}, extracted at rank {report['rank']}, keeps {percentage(report['energy'])} of the "
        f"squared change of the weights{least}. Its logits are off by {percentage(report['logit_error'])} of their "
        f"change, its likeliest token is the whole model's in {percentage(report['agreement'])}; loss "
        f"{losses['adapter']:.4f}, of the whole model {losses['full']:.4f}, of the base {losses['base']:.4f}. "
        f"Rounded as the base is, the whole model's weights are off by {percentage(report['model_rounding'])} of their "
        "change"
    )
    is_missed = wanted is not None and report["energy"] < wanted - 1e-9
    if is_missed:
        message += f". extraction_energy {wanted:g} takes a larger rank, which the server's --max-lora-rank bounds"
    return RunEvent(message=message, data={"step": step, "extraction": report}, level="warn" if is_missed else "info")


@dataclass(slots=True)
class _Ratio:
    """The norm of errors over that of what they are errors of; 0 where there is nothing to get wrong."""

    _wrong: float = 0.0
    _whole: float = 0.0

    def add(self, wrong: Tensor, whole: Tensor) -> None:
        self._wrong += _squared_norm(wrong)
        self._whole += _squared_norm(whole)

    @property
    def value(self) -> float:
        return math.sqrt(self._wrong / self._whole) if self._whole else 0.0


def _squared_norm(numbers: Tensor) -> float:
    return float(torch.linalg.vector_norm(numbers, dtype=torch.float64)) ** 2


def _kept(error: float) -> float:
    return 1 - error**2


def _changed(model: Any, spec: RunSpec) -> Weights:
    """Return the weights that may differ from the base's: those that are trained, and a warm start's."""
    merged = set() if spec.warm_start is None else StoredLora.open(spec.warm_start).shapes.keys()
    return {
        name: part.weight.detach()
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and (part.weight.requires_grad or name in merged)
    }


@contextmanager
def _restored(model: Any, weights: Weights) -> Iterator[None]:
    """Let ``weights`` be changed during the block, and the model compute as it does in use."""
    kept = {name: weight.to("cpu", copy=True) for name, weight in weights.items()}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for name, weight in weights.items():
            weight.copy_(kept[name])
        model.train(was_training)


def _chosen(rows: Dataset, spec: RunSpec) -> Iterator[tuple[list[int], list[int]]]:
    """Yield token ids and the places of trained tokens of rows spread over ``rows``, the same at each call.

    A row without a trained token in its first ``MOST_CONTEXT`` counts with all its tokens.
    """
    left = min(MOST_TOKENS, max(1, MOST_NUMBERS // base_model.vocabulary(spec)))
    step = max(1, len(rows) // MOST_ROWS)
    for number in range(0, len(rows), step)[:MOST_ROWS]:
        row = rows[number]
        ids, labels = row["input_ids"][:MOST_CONTEXT], row["labels"][:MOST_CONTEXT]
        places = [place for place in range(1, len(ids)) if labels[place] != token_rows.IGNORED] or list(
            range(1, len(ids))
        )
        if places and left > 0:
            yield ids, places[:left]
            left -= len(places)
