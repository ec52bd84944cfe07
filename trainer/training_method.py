"""The training methods, a row each. A new method is a row here and a file in ``trainer.methods`` of the same name.

Those files import tensor libraries; this table does not, since the server reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from trainer.options import DistillOptions, FullOptions, MethodOptions, PreferenceOptions, ReinforcementOptions
from trainer.row_formats import RowFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodTraits:
    """What the rest of the trainer and the server need to know of a method."""

    formats: tuple[RowFormat, ...]
    """Formats of the training files that it takes."""
    options: type[MethodOptions]
    """The hyperparameters that it takes."""
    sequences: int = 1
    """Sequences of one row that go through the model."""
    samples: int = 0
    """Answers that are drawn for each prompt and graded; 0: the rows have the answers."""
    is_taught: bool = False
    """Whether a teacher, the served base model with a prompt, say, answers the questions before the first step."""
    least_batch: int = 1
    """Fewest rows that a device may take at once."""
    rate: float = 1.0
    """Its learning rate over that of supervised training."""
    packs: bool = False
    """Whether ``packing`` has an effect."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Options of every other method that it does not take, and why."""
    judged_by: str = "full_valid_loss"
    """The metric of a validation that tells the best checkpoint: a loss is best at its smallest, a reward at its
    largest."""


_CONVERSATIONS: Final = (
    RowFormat.CHAT,
    RowFormat.PROMPT_COMPLETION,
    RowFormat.ALPACA,
    RowFormat.SHAREGPT,
    RowFormat.TEXT,
)


class TrainingMethod(StrEnum):
    """How an adapter is made."""

    traits: MethodTraits

    def __new__(cls, name: str, traits: MethodTraits) -> Self:
        method = str.__new__(cls, name)
        method._value_ = name
        method.traits = traits
        return method

    SUPERVISED = (
        "supervised",
        MethodTraits(
            formats=_CONVERSATIONS,
            options=MethodOptions,
            packs=True,
        ),
    )
    FULL = (
        "full",
        MethodTraits(
            formats=_CONVERSATIONS,
            options=FullOptions,
            rate=1 / 10,  # "LoRA Without Regret": LoRA's is ten times that of full fine-tuning
            packs=True,
            without={
                "alpha": "the extracted adapter's scale is 1",
                "quantization": "weights of four bits cannot be trained; a LoRA on them can",
            },
        ),
    )
    DPO = (
        "dpo",
        MethodTraits(
            formats=(RowFormat.DPO, RowFormat.PREFERENCE),
            options=PreferenceOptions,
            sequences=2,
            rate=1 / 20,  # 1.2e-5 at width 4096, where DPO recipes for LoRA start (1e-5)
        ),
    )
    KTO = (
        "kto",
        MethodTraits(
            formats=(RowFormat.KTO,),
            options=PreferenceOptions,
            sequences=2,
            least_batch=2,  # it compares a row with its neighbours
            rate=1 / 20,
        ),
    )

    DISTILL = (
        "distill",
        MethodTraits(formats=(RowFormat.QUESTION,), options=DistillOptions, is_taught=True, packs=True),
    )
    REWARD = (
        "reward",
        MethodTraits(
            formats=(RowFormat.RANKING, RowFormat.DPO, RowFormat.PREFERENCE),
            options=MethodOptions,
            sequences=2,
            rate=1 / 4,
        ),
    )
    REINFORCEMENT = (
        "reinforcement",
        MethodTraits(
            formats=(RowFormat.TASK,),
            options=ReinforcementOptions,
            samples=8,
            rate=1 / 10,
            judged_by="full_valid_mean_reward",
        ),
    )

    @property
    def draws(self) -> bool:
        """Whether the server draws and grades the answers that are trained on."""
        return self.traits.samples > 0

    @property
    def trains_weights(self) -> bool:
        """Whether the base model's own weights are trained; the adapter is extracted from them."""
        return self is TrainingMethod.FULL

    @classmethod
    def for_format(cls, form: RowFormat) -> TrainingMethod:
        """Return the method that rows of a format are for, unless another one is stated."""
        return next(method for method in cls if form in method.traits.formats)
