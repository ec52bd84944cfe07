"""What every method's run has in common: the Trainer's arguments, going on after a crash, and the result."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from threading import Event as Flag
from typing import Any, TypeVar

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from trainer.methods import base_model, peers
from trainer.methods.curves import curves, thinned
from trainer.methods.endings import Stopped
from trainer.methods.hyperparameters import MAX_GRADIENT, Hyperparameters
from trainer.methods.progress import Progress, Reporter
from trainer.methods.rendering import Renderer
from trainer.methods.tracking import tracked
from trainer.run_directory import RunCheckpoint, RunDirectory, RunResult, event
from trainer.run_spec import RunSpec

Config = TypeVar("Config", bound=TrainingArguments)


def configured(kind: type[Config], run: RunDirectory, spec: RunSpec, numbers: Hyperparameters, **own: Any) -> Config:
    """Return a config of TRL's: what all are given, and what a method has of its ``own``."""
    config: Config = kind(**_arguments(run, spec, numbers), **own)
    config._n_gpu = min(1, config.n_gpu)  # one a process: transformers takes all it sees, which TRL then refuses
    return config


def _arguments(run: RunDirectory, spec: RunSpec, numbers: Hyperparameters) -> dict[str, Any]:
    """Return what all configs are given. TRL's own rates are those of full fine-tuning, so none is left out."""
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(run.scratch),
        "seed": spec.seed,
        "data_seed": spec.seed,
        "num_train_epochs": numbers.n_epochs,
        "per_device_train_batch_size": numbers.micro_batch_size,
        "per_device_eval_batch_size": numbers.micro_batch_size,
        "gradient_accumulation_steps": numbers.batch_size // (numbers.micro_batch_size * spec.processes),
        "learning_rate": numbers.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": numbers.warmup_steps,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": MAX_GRADIENT,
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": on_gpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # or a loss that is not finite is logged as the mean of those before
        "include_num_input_tokens_seen": "non_padding",
        "eval_strategy": "no",  # Progress decides when
        "save_strategy": "no",  # Progress decides when
        "report_to": [],
        "disable_tqdm": True,
    }


def progress(run: RunDirectory, spec: RunSpec, numbers: Hyperparameters, reporter: Reporter, stop: Flag) -> Progress:
    """Return the callback of a run."""
    return Progress(
        run,
        reporter,
        numbers,
        validates=spec.validation_file is not None,
        patience=spec.patience,
        stop=stop,
        export_dtype=base_model.export_dtype(spec),
        base_name=spec.base.name,
    )


def go(trainer: Trainer, run: RunDirectory, renderer: Renderer, numbers: Hyperparameters, reporter: Reporter) -> None:
    """Train from the newest checkpoint, or from the start, to the end; the first process writes the result.

    Raises:
        Stopped: the run was asked to stop before the last step.
        NotFinite: loss or gradient is no longer a finite number.
    """
    with tracked(run, numbers, reporter):
        _train(trainer, run, reporter)
        if peers.is_first():
            _conclude(run, renderer, numbers)


def _train(trainer: Trainer, run: RunDirectory, reporter: Reporter) -> None:
    trainer.remove_callback(PrinterCallback)  # the events say it all
    trainer.processing_class = None  # the rows are rendered; else it is saved with every checkpoint
    for weights in trainer.model.parameters():
        if weights.requires_grad:  # on a quantised base TRL has them in bfloat16, which loses small steps
            weights.data = weights.data.float()
    before = run.checkpoints()
    if not before or not before[-1].marker.last:
        if before:
            reporter.tell(event(f"Going on from step {before[-1].step}", data={"step": before[-1].step}))
        trainer.train(resume_from_checkpoint=str(before[-1].state) if before else None)


def _conclude(run: RunDirectory, renderer: Renderer, numbers: Hyperparameters) -> None:
    last = run.checkpoints()[-1]
    if not last.marker.last:
        raise Stopped(f"stopped at step {last.step} of {numbers.steps}; the run goes on from there")
    best = _best(run.checkpoints())
    result = RunResult(
        best_checkpoint=best.name,
        last_checkpoint=last.name,
        steps=last.step,
        trained_tokens=last.marker.trained_tokens,
        seconds=last.marker.seconds,
        peak_memory_bytes=peak_memory_bytes(),
        renderer_sha256=renderer.sha256,
        hyperparameters=numbers.to_json(),
        metrics=best.marker.metrics,
        curves=thinned(curves(run.events())),
    )
    run.write_result(result)


def _best(made: Sequence[RunCheckpoint]) -> RunCheckpoint:
    """The lowest validation loss; where nothing was validated, the last."""
    validated = [checkpoint for checkpoint in made if "full_valid_loss" in checkpoint.marker.metrics]
    return min(validated, key=lambda checkpoint: checkpoint.marker.metrics["full_valid_loss"], default=made[-1])


def peak_memory_bytes() -> int:
    """The most memory used so far: of this process's GPU where there is one, of itself where there is none."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
