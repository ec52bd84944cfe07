"""Kahneman-Tversky optimization (arXiv:2402.01306): the adapter learns from answers that are called good or bad.

How far the adapter has moved is measured on prompts with other prompts' answers; each row brings the answer of the row
before it for that.
"""

from __future__ import annotations

from threading import Event as Flag

from datasets import Dataset
from trl import KTOConfig, KTOTrainer

from trainer.methods import base_model, data_sets, loop
from trainer.methods.hyperparameters import resolve
from trainer.methods.progress import Reporter
from trainer.methods.rendering import Renderer
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec


class _Rendered(KTOTrainer):  # type: ignore[misc]  # no types
    """TRL's trainer on ids that our renderer made: TRL itself would render them again, its own way."""

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        answers = dataset["completion_ids"][:]
        return dataset.add_column("KL_completion_ids", answers[-1:] + answers[:-1])


def train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    """Train, or go on training, to the result; see ``loop.go`` and ``data_sets.load`` for what it raises."""
    reporter = Reporter(run)
    renderer = Renderer(spec.base)

    rows = data_sets.load(spec.training_file, spec, renderer, reporter)
    held_out = data_sets.load(spec.validation_file, spec, renderer, reporter) if spec.validation_file else None
    longest = max(map(data_sets.tokens, rows))
    numbers = resolve(spec, rows=len(rows), width=base_model.width(spec), longest=longest)
    reporter.begins(f"{len(rows)} rows", numbers)

    good = sum(rows["label"])
    bad = len(rows) - good
    model, adapter = base_model.load(spec)
    config = loop.configured(
        KTOConfig,
        run,
        spec,
        numbers,
        beta=numbers.beta,
        desirable_weight=max(1.0, bad / max(1, good)),  # both kinds weigh the same in all: the paper's equation 8
        undesirable_weight=max(1.0, good / max(1, bad)),
        max_length=None,  # rows fit; TRL's own default would cut them at 1024
    )
    trainer = _Rendered(
        model=model,
        args=config,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=renderer.tokenizer,
        peft_config=adapter,
        callbacks=[loop.progress(run, spec, numbers, reporter, stop)],
    )
    loop.go(trainer, run, renderer, numbers, reporter)
