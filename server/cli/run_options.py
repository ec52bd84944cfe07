"""The options of a training run: what ``patchbay train`` sends and ``patchbay check`` tries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from server.cli.failure import CommandFailed, ExitCode
from trainer.run_spec import ALL_LINEAR, Quantization, TrainingMethod

MethodOf = Annotated[TrainingMethod | None, typer.Option("--method", help="How to train.")]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the file; else auto.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Rows in a step; else auto.")]
RateMultiplier = Annotated[
    float | None, typer.Option("--rate-multiplier", min=0, help="Times the learning rate that suits the base.")
]
Beta = Annotated[
    float | None, typer.Option("--beta", min=0, help="Of dpo and kto: what it costs to move away from the base.")
]
Rank = Annotated[int | None, typer.Option("--rank", min=1, help="Of the LoRA.")]
Alpha = Annotated[float | None, typer.Option("--alpha", min=0, help="LoRA's scaling is alpha / rank.")]
Targets = Annotated[
    str | None, typer.Option("--targets", metavar=f"A,B|{ALL_LINEAR}", help="Modules that the LoRA changes.")
]
QuantizationOf = Annotated[
    Quantization | None, typer.Option("--quantization", help="How the base is held in training: 4bit is QLoRA.")
]
MaxLength = Annotated[int | None, typer.Option("--max-length", min=1, help="Tokens in a row; longer ones are refused.")]
DropLong = Annotated[bool | None, typer.Option("--drop-long", help="Leave longer rows out instead.")]
Packing = Annotated[bool | None, typer.Option("--packing", help="Several short rows in one sequence.")]
Patience = Annotated[
    int | None, typer.Option("--patience", min=1, help="Stop after so many checkpoints without a better loss.")
]
CheckpointSteps = Annotated[
    int | None, typer.Option("--checkpoint-steps", min=1, help="Steps from checkpoint to checkpoint; else auto.")
]

HYPERPARAMETERS: Final[Mapping[str, str]] = {
    "epochs": "n_epochs",
    "batch_size": "batch_size",
    "rate_multiplier": "learning_rate_multiplier",
    "beta": "beta",
}
"""Option → OpenAI's word."""
OWN: Final = (
    "rank",
    "alpha",
    "targets",
    "quantization",
    "max_length",
    "drop_long",
    "packing",
    "patience",
    "checkpoint_steps",
)
"""Options that are called as our own keys of a job."""


def hyperparameters(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of OpenAI's hyperparameters that the command line states."""
    return {word: options[name] for name, word in HYPERPARAMETERS.items() if options[name] is not None}


def own(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of our own keys that the command line states.

    Raises:
        CommandFailed: ``targets`` names nothing.
    """
    stated = {name: options[name] for name in OWN if options[name] is not None}
    if (targets := stated.get("targets", ALL_LINEAR)) != ALL_LINEAR:
        stated["targets"] = [name for part in targets.split(",") if (name := part.strip())]
        if not stated["targets"]:
            raise CommandFailed(ExitCode.USAGE, f"--targets names no module; write q_proj,v_proj or {ALL_LINEAR}")
    return stated
