"""Direct preference optimization (arXiv:2305.18290): the adapter learns to like one answer better than another.

The reference is the base itself, or the adapter of the warm start; TRL switches the trained adapter off for it.
"""

from __future__ import annotations

from threading import Event as Flag

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from trainer.methods import base_model, data_sets, loop
from trainer.methods.hyperparameters import resolve
from trainer.methods.progress import Reporter
from trainer.methods.rendering import Renderer
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec


class _Rendered(DPOTrainer):  # type: ignore[misc]  # no types
    """TRL's trainer on ids that our renderer made: TRL itself would render them again, its own way."""

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset


def train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    """Train, or go on training, to the result; see ``loop.go`` and ``data_sets.load`` for what it raises."""
    reporter = Reporter(run)
    renderer = Renderer(spec.base)

    pairs = data_sets.load(spec.training_file, spec, renderer, reporter)
    held_out = data_sets.load(spec.validation_file, spec, renderer, reporter) if spec.validation_file else None
    longest = max(map(data_sets.tokens, pairs))
    numbers = resolve(spec, rows=len(pairs), width=base_model.width(spec), longest=longest)
    reporter.begins(f"{len(pairs)} pairs", numbers)

    model, adapter = base_model.load(spec)
    config = loop.configured(
        DPOConfig,
        run,
        spec,
        numbers,
        beta=numbers.beta,
        max_length=None,  # rows fit; TRL's own default would cut them at 1024
    )
    trainer = _Rendered(
        model=model,
        args=config,
        train_dataset=pairs,
        eval_dataset=held_out,
        processing_class=renderer.tokenizer,
        peft_config=adapter,
        callbacks=[loop.progress(run, spec, numbers, reporter, stop)],
    )
    loop.go(trainer, run, renderer, numbers, reporter)
