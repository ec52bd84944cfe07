"""What a training run is told to do: the file ``spec.json`` between the worker and its child process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal

Auto = Literal["auto"]
AUTO: Final[Auto] = "auto"
DEFAULT_RANK: Final = 16
ALL_LINEAR: Final = "all-linear"
"""Every linear module except the output head (PEFT's word); attention alone learns less at the same size."""
Quantization = Literal["4bit"]

_PATHS: Final = ("base", "training_file", "validation_file", "warm_start")


class TrainingMethod(StrEnum):
    """How an adapter is made."""

    SUPERVISED = "supervised"
    DPO = "dpo"
    KTO = "kto"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """Everything that decides which weights come out, and nothing else."""

    base: Path
    """Directory of the base model, with the tokenizer and chat template that serve."""
    training_file: Path
    validation_file: Path | None = None
    method: TrainingMethod = TrainingMethod.SUPERVISED
    n_epochs: int | Auto = AUTO
    batch_size: int | Auto = AUTO
    """Rows in one optimizer step."""
    learning_rate_multiplier: float | Auto = AUTO
    """Times the rate that suits the base's width; see ``trainer.methods.hyperparameters``."""
    beta: float | Auto = AUTO
    """Of ``dpo`` and ``kto``: how dearly it costs to move away from the base."""
    seed: int = 0
    rank: int = DEFAULT_RANK
    alpha: float | None = None
    """LoRA's scaling is alpha / rank; None: twice the rank. A warm start keeps its own rank, alpha and targets."""
    targets: tuple[str, ...] | Literal["all-linear"] = ALL_LINEAR
    quantization: Quantization | None = None
    """How the base is held while an adapter is trained on it (QLoRA, arXiv:2305.14314): in a quarter of the memory, a
    little off the base that serves. The adapter is a plain one."""
    max_length: int | None = None
    """Tokens in a row; None: as many as the base takes. Longer rows are refused, never cut."""
    drop_long: bool = False
    """Leave rows that are too long out (and say so) instead of refusing the file."""
    packing: bool = False
    """Put several short rows into one sequence, each seeing itself alone."""
    patience: int | None = None
    """Stop after this many checkpoints without a better validation loss; None: never."""
    checkpoint_steps: int | Auto = AUTO
    """Steps from checkpoint to checkpoint."""
    warm_start: Path | None = None
    """Adapter directory to go on from instead of a fresh one."""
    threads: int | None = None
    """CPU threads of a process; None: torch decides. Sums in another order round differently, so it belongs to the
    weights."""
    processes: int = 1
    """That share each batch, a GPU each; without a GPU they share the CPU. What each gets decides the weights too."""

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON values."""
        return asdict(self) | {name: None if (path := getattr(self, name)) is None else str(path) for name in _PATHS}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunSpec:
        """Return the spec that ``to_json`` gave.

        Raises:
            ValueError: no object, a key that the spec does not have, or lacks, or a method that there is not.
        """
        if not isinstance(value, Mapping):
            raise ValueError("the run's spec is no JSON object")
        unknown = sorted(value.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"the run's spec has unknown keys: {', '.join(unknown)}")
        missing = [name for name in ("base", "training_file") if value.get(name) is None]
        if missing:
            raise ValueError(f"the run's spec lacks {', '.join(missing)}")
        given = dict(value)
        for name in _PATHS:
            if given.get(name) is not None:
                given[name] = Path(given[name])
        given["method"] = TrainingMethod(given.get("method", TrainingMethod.SUPERVISED))
        if isinstance(given.get("targets"), list):
            given["targets"] = tuple(given["targets"])
        return cls(**given)
