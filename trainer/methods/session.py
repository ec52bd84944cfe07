"""What every method's run has in common: rows, numbers, the Trainer's arguments, going on after a crash, the result."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from dataclasses import asdict
from threading import Event as Flag
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments
from trl import pack_dataset

from trainer.endings import Stopped
from trainer.methods import base_model, data_sets, peers
from trainer.methods.checkpoints import Export, best_of, delete_older_models, export_adapter
from trainer.methods.curves import curves, thinned
from trainer.methods.hyperparameters import MAX_GRADIENT, Hyperparameters, pack_length, resolve
from trainer.methods.progress import Progress, Reporter
from trainer.methods.tracking import tracked
from trainer.rendering import token_rows
from trainer.run_directory import RunCheckpoint, RunDirectory, RunEvent, RunResult
from trainer.run_spec import RunSpec


class Session:
    """One start of a run: its rows as token ids, its numbers, and the Trainer that takes it to the result.

    Args:
        run: where checkpoints, events and the result go.
        spec: its options; ``run.spec()``, or a shorter one for a dry run.
        stop: asks for a checkpoint and the end.
        training: file of the token rows that are trained on.
        validation: file of those that are not, where there are any.

    Raises:
        BaseRefused: the base lacks what training needs.
        DataRefused: the rows cannot be trained on.
        OSError: a file cannot be read.
    """

    numbers: Hyperparameters
    measure: Callable[[RunCheckpoint], Mapping[str, Any]] | None = None
    """Returns the entry ``distillation`` of the result, for its checkpoint."""

    def __init__(
        self,
        run: RunDirectory,
        spec: RunSpec,
        stop: Flag,
        *,
        training: str = token_rows.TRAINING,
        validation: str = token_rows.VALIDATION,
    ) -> None:
        self._run = run
        self._spec = spec
        self._stop = stop
        self._reporter = Reporter(run)
        self._rendering = data_sets.report(run)
        data_sets.check(self._rendering, run)
        self.rows, self._longest = self._load(training)
        self.held_out = self._load(validation)[0] if (run.token_rows / validation).exists() else None
        self._report_left_out()

    def _load(self, name: str) -> tuple[Dataset, int]:
        """Return the rows in a file, and the length of the longest."""
        rows = data_sets.load(self._run, name)
        return rows.remove_columns(token_rows.TOKENS), max(rows[token_rows.TOKENS])

    def _report_left_out(self) -> None:
        files = {
            self._spec.training_file: self._rendering.training,
            self._spec.validation_file: self._rendering.validation,
        }
        for path, file in files.items():
            if path is not None and file is not None and (count := file["tokens"]["lines"]["too_long"]):
                message = f"{count} rows of {path.name} are too long and were left out"
                lines = file["tokens"]["too_long"]
                self._reporter.report(RunEvent(message=message, data={"lines": lines}, level="warn"))

    @property
    def context(self) -> int:
        """Tokens that a sequence may have."""
        return self._rendering.most_tokens

    def pack(self) -> None:
        """Pack several short rows into one sequence."""
        self._longest = pack_length(self._longest, self._rendering.most_tokens)
        self.rows = pack_dataset(self.rows, self._longest, "bfd")  # best fit, and no row is split over two packs
        self.held_out = self.held_out and pack_dataset(self.held_out, self._longest, "bfd")

    def start(self, unit: str) -> Hyperparameters:
        """Return the run's numbers and report them, on its first start; ``unit`` is the plural of one row."""
        width = base_model.width(self._spec)
        self.numbers = resolve(self._spec, rows=len(self.rows), width=width, longest=self._longest)
        self._reporter.started(f"{len(self.rows)} {unit}", self.numbers)
        return self.numbers

    def train(
        self,
        trainer: type[Trainer],
        config: type[TrainingArguments],
        *,
        export: Export = export_adapter,
        **arguments: Any,
    ) -> None:
        """Train with TRL's ``trainer`` and ``config`` from the newest checkpoint, or from the start, to the result.

        ``export`` makes an adapter of each checkpoint; ``arguments`` are the config's that are this method's own. The
        first process writes the result.

        Raises:
            SpecRefused, BaseRefused, WarmStartRefused: see ``base_model.load``.
            Stopped: the run was stopped before the last step.
            NotFinite: loss or gradient is no longer a finite number.
        """
        model, adapter = base_model.load(self._spec)
        args = config(**self._arguments() | arguments)
        args._n_gpu = min(1, args.n_gpu)  # one a process: transformers takes all it sees, which TRL then refuses
        training = _on_token_ids(trainer)(
            model=model,
            args=args,
            train_dataset=self.rows,
            eval_dataset=self.held_out,
            processing_class=base_model.tokenizer(self._spec),
            peft_config=adapter,
            callbacks=[
                Progress(
                    self._run,
                    self._spec,
                    self.numbers,
                    self._reporter,
                    self._stop,
                    is_validated=self.held_out is not None,
                    export=export,
                )
            ],
        )
        with tracked(self._run, self.numbers, self._reporter):
            self._train(training)
            if peers.is_first():
                self._conclude()

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of every config. TRL's own rates are those of full fine-tuning, so none is left out."""
        spec, numbers, on_gpu = self._spec, self.numbers, torch.cuda.is_available()
        return {
            "output_dir": str(self._run.scratch),
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

    def _train(self, training: Trainer) -> None:
        training.remove_callback(PrinterCallback)  # the events have the same numbers
        training.processing_class = None  # the rows are rendered; else it is saved with every checkpoint
        for weights in training.model.parameters():
            if weights.requires_grad:  # on a quantised base TRL has them in bfloat16, which loses small steps
                weights.data = weights.data.float()
        before = self._run.checkpoints()
        if not before or not before[-1].marker.last:
            if before:
                step = before[-1].step
                self._reporter.report(RunEvent(message=f"Going on from step {step}", data={"step": step}))
            training.train(resume_from_checkpoint=str(before[-1].state) if before else None)

    def _conclude(self) -> None:
        checkpoints = self._run.checkpoints()
        last = checkpoints[-1]
        if not last.marker.last:
            raise Stopped(f"stopped at step {last.step} of {self.numbers.steps}; the run goes on from there")
        delete_older_models(self._run)  # of which a killed process may have left some
        best = best_of(checkpoints, self._spec.method)
        result = RunResult(
            best_checkpoint=best.name,
            last_checkpoint=last.name,
            steps=last.step,
            trained_tokens=last.marker.trained_tokens,
            seconds=last.marker.seconds,
            peak_memory_bytes=_peak_memory_bytes(),
            renderer_sha256=str(self._rendering.renderer_sha256),
            hyperparameters=asdict(self.numbers),
            metrics=best.marker.metrics,
            curves=thinned(curves(self._run.events())),
            distillation=None if self.measure is None else self.measure(best),
        )
        self._run.write_result(result)


def _on_token_ids(trainer: type[Trainer]) -> type[Trainer]:
    """Return a subclass of TRL's ``trainer`` that takes our rows as they are: TRL would render them in its own way."""

    def prepare(_self: Trainer, dataset: Dataset, *_: object) -> Dataset:
        return dataset

    return type(f"OnTokenIds{trainer.__name__}", (trainer,), {"_prepare_dataset": prepare})


def _peak_memory_bytes() -> int:
    """The most memory used so far: of this process's GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
