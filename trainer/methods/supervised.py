"""Supervised fine-tuning: the adapter learns to give the answers that the rows give.

LoRA on all linear layers; loss on the tokens of answers with weight 1 and their end-of-turn tokens alone.
"""

from __future__ import annotations

from threading import Event as Flag

from trl import SFTConfig, SFTTrainer, pack_dataset

from trainer.methods import base_model, data_sets, loop
from trainer.methods.hyperparameters import pack_length, resolve
from trainer.methods.progress import Reporter
from trainer.methods.rendering import Renderer
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec


def train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    """Train, or go on training, to the result; see ``loop.go`` and ``data_sets.load`` for what it raises."""
    reporter = Reporter(run)
    renderer = Renderer(spec.base)

    rows = data_sets.load(spec.training_file, spec, renderer, reporter)
    held_out = data_sets.load(spec.validation_file, spec, renderer, reporter) if spec.validation_file else None
    longest = max(map(data_sets.tokens, rows))
    if spec.packing:
        longest = pack_length(longest, data_sets.limit(spec, renderer))
        rows = pack_dataset(rows, longest, "bfd")  # best fit, and no row is split over two packs
        held_out = held_out and pack_dataset(held_out, longest, "bfd")

    numbers = resolve(spec, rows=len(rows), width=base_model.width(spec), longest=longest)
    reporter.begins(f"{len(rows)} sequences", numbers)

    model, adapter = base_model.load(spec)
    config = loop.configured(
        SFTConfig,
        run,
        spec,
        numbers,
        max_length=None,  # rows fit; TRL's own default would cut them at 1024
        packing=spec.packing,
        dataset_kwargs={"skip_prepare_dataset": True},  # ids and labels are ours
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=renderer.tokenizer,
        peft_config=adapter,
        callbacks=[loop.progress(run, spec, numbers, reporter, stop)],
    )
    loop.go(trainer, run, renderer, numbers, reporter)
