"""What a training run does: the file ``spec.json`` between the worker and its child process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.options import TrainingOptions
from trainer.renderer_options import RendererOptions
from trainer.training_method import TrainingMethod


class RunSpec(TrainingOptions):
    """Everything that decides which weights come out, and how many rows judge them."""

    base: Path
    """Directory of the base model, with the tokenizer and chat template that serve."""
    training_file: Path
    validation_file: Path | None = None
    method: TrainingMethod = TrainingMethod.SUPERVISED
    seed: int = 0
    renderer: RendererOptions = RendererOptions()
    """Options of the server that decide how conversations become prompts."""
    warm_start: Path | None = None
    """Adapter directory to go on from instead of a fresh adapter."""
    threads: int | None = None
    """CPU threads of a process; None: torch decides. Sums in another order round differently, so it belongs to the
    weights."""
    prompt: tuple[Mapping[str, Any], ...] = ()
    """Of a distillation: the messages that the teacher has before each question, and the trained adapter has not."""
    processes: int = 1
    """Processes that share each batch, a GPU each; without GPUs they share the CPU. Each process's share of the batch
    decides the weights too."""
    is_dry: bool = False
    """Of a dry run: no server draws answers, and what is trained on means nothing."""

    @classmethod
    def from_json(cls, value: object) -> RunSpec:
        """Return the spec of a run of this release or an earlier one.

        Raises:
            ValueError: not a spec; the message names every key at fault.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            faults = ((".".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors())
            described = "; ".join(f"{field}: {message}" if field else message for field, message in faults)
            raise ValueError(f"the run's spec cannot be read: {described}") from error
