"""Training options, each in one place: name, type, bounds, default and description.

The API's request bodies, the options of ``patchbay train`` and ``patchbay check``, the run spec and the preflight are
derived from these models. A new option is a new field here: of the hyperparameters where it belongs to a method, else
of ``JobOptions``.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from adapters.lora.ranks import SERVABLE_RANKS

Auto = Literal["auto"]
AUTO: Final[Auto] = "auto"
"""Chosen from the size of the data and the base model; see ``trainer.methods.hyperparameters``."""
DEFAULT_RANK: Final = 16
ALL_LINEAR: Final = "all-linear"
"""Every linear module except the output head (PEFT's word); attention alone learns less at the same size."""
MAX_ANSWER: Final = 2**16
"""Tokens of an answer that is drawn in training."""
MAX_SAMPLES: Final = 16
"""Answers of a teacher to one question."""
MAX_SEED: Final = 2**31 - 1
DEFAULT_VERDICT_ROWS: Final = 200
MAX_VERDICT_ROWS: Final = 2000
MAX_MULTIPLIER: Final = 1e6
"""Of the learning rate. OpenAI names no bound; far above this one the rate itself overflows."""


def _auto_or(
    kind: type[int | float], *, least: float = 0, most: float = math.inf, takes_zero: bool = False
) -> BeforeValidator:
    """Admit "auto" and numbers from ``least`` (0: above it) to ``most``, with one error message for the whole field.

    ``takes_zero``: 0 is allowed too.

    It runs before pydantic's own check, which would report each alternative of the union as a field of its own.
    """
    upper = most if math.isfinite(most) else None
    rule = f"'auto' or a number {f'from {least:g}' if least or takes_zero else 'above 0'}"
    rule += "" if upper is None else f" up to {upper:g}"

    def check(value: object) -> object:
        is_number = isinstance(value, int | kind) and not isinstance(value, bool)
        is_within = is_number and least <= value <= most and (value > 0 or takes_zero)  # type: ignore[operator]
        if value != AUTO and not is_within:
            raise PydanticCustomError("bounds", "Input should be {rule}", {"rule": rule})
        return value

    bounds = Field(ge=least if least or takes_zero else None, gt=None if least or takes_zero else 0, le=upper)
    return BeforeValidator(check, json_schema_input_type=Annotated[kind, bounds] | Auto)


def _check_targets(value: object) -> object:
    """Admit "all-linear" and names, with one error message, as above."""
    is_names = isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value)
    if value != ALL_LINEAR and not is_names:
        raise PydanticCustomError("names", "Input should be '{all}' or a list of names", {"all": ALL_LINEAR})
    return value


class _Options(BaseModel):
    """Options of which null means the default: OpenAI's API takes null for a field that is left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _take_null_for_unstated(cls, options: Any) -> Any:
        if not isinstance(options, dict):
            return options
        return {name: value for name, value in options.items() if value is not None or name not in cls.model_fields}


class MethodOptions(_Options):
    """Hyperparameters that every method takes; OpenAI's names and bounds."""

    n_epochs: Annotated[int | Auto, _auto_or(int, least=1, most=50)] = Field(
        AUTO, description="Passes over the training file."
    )
    batch_size: Annotated[int | Auto, _auto_or(int, least=1, most=256)] = Field(
        AUTO, description="Examples in one optimizer step."
    )
    learning_rate_multiplier: Annotated[float | Auto, _auto_or(float, most=MAX_MULTIPLIER)] = Field(
        AUTO, description="Factor on the learning rate that suits the base model's width."
    )


class FullOptions(MethodOptions):
    """Hyperparameters of ``full``."""

    extraction_energy: Annotated[float | Auto, _auto_or(float, most=1)] = Field(
        AUTO,
        description="Share of the squared change of the weights that the adapter extracted from a fully trained model "
        "has to keep; it gets the smallest rank that does, at most rank. By default it gets rank.",
    )


class PreferenceOptions(MethodOptions):
    """Hyperparameters of ``dpo`` and ``kto``."""

    beta: Annotated[float | Auto, _auto_or(float, most=2)] = Field(
        AUTO,
        description="How strongly dpo, kto and reinforcement hold the adapter to the model that training starts from.",
    )


class AnswerOptions(MethodOptions):
    """Hyperparameters of the methods whose answers the server draws."""

    max_completion_tokens: Annotated[int | Auto, _auto_or(int, least=1, most=MAX_ANSWER)] = Field(
        AUTO, description="Tokens of a drawn answer; longer ones are cut, and taken as they are."
    )


class DistillOptions(AnswerOptions):
    """Hyperparameters of ``distill``."""

    samples: Annotated[int | Auto, _auto_or(int, least=1, most=MAX_SAMPLES)] = Field(
        AUTO, description="Answers of the teacher to each question of distill; by default 1."
    )
    temperature: Annotated[float | Auto, _auto_or(float, most=2, takes_zero=True)] = Field(
        AUTO, description="Temperature of the teacher's answers; by default 0 for one answer, 1 for several."
    )


class ReinforcementOptions(AnswerOptions):
    """Hyperparameters of ``reinforcement``: OpenAI's, but for ``reasoning_effort``, and three of ours."""

    compute_multiplier: Annotated[float | Auto, _auto_or(float, most=10)] = Field(
        AUTO, description="Factor on the number of answers that are drawn for each prompt, which is 8."
    )
    eval_interval: Annotated[int | Auto, _auto_or(int, least=1)] = Field(
        AUTO, description="Optimizer steps between two validations; by default at each checkpoint."
    )
    eval_samples: Annotated[int | Auto, _auto_or(int, least=1, most=10)] = Field(
        AUTO, description="Answers drawn for each prompt in a validation; by default 1."
    )
    algorithm: Literal["grpo", "rloo"] = Field(
        "grpo",
        description="How rewards become gradients: GRPO (arXiv:2402.03300, DAPO's loss) or RLOO (arXiv:2402.14740).",
    )
    reasoning_effort: Literal["default"] = Field(
        "default", description="OpenAI's field: how much a model reasons is the chat template's affair here."
    )
    beta: Annotated[float | Auto, _auto_or(float, most=2, takes_zero=True)] = Field(
        AUTO,
        description="How strongly dpo, kto and reinforcement hold the adapter to the model that training starts from.",
    )


class JobOptions(_Options):
    """Options of every job, whatever its method: OpenAI's ``seed``, and ours."""

    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="The same seed makes the same weights; a job without one draws it."
    )
    rank: int = Field(
        DEFAULT_RANK,
        ge=1,
        le=SERVABLE_RANKS[-1],
        description="Rank of the LoRA; with full the largest of the extracted one.",
    )
    alpha: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="LoRA's scaling is alpha / rank; by default alpha is twice the rank.",
    )
    targets: Annotated[tuple[str, ...] | Literal["all-linear"], BeforeValidator(_check_targets)] = Field(
        ALL_LINEAR, description="Modules that get a LoRA; all-linear is every linear module but the output head."
    )
    quantization: Literal["4bit"] | None = Field(
        None,
        description="Precision of the base model in training (QLoRA, arXiv:2305.14314): a quarter of the memory, a "
        "little off the base model that serves. The adapter is an ordinary one.",
    )
    max_length: int | None = Field(
        None,
        ge=1,
        description="Tokens in one example; by default as many as the base model takes. Longer ones are refused, never "
        "cut.",
    )
    drop_long: bool = Field(
        default=False, description="Skip examples longer than max_length, with a warning, instead of refusing the file."
    )
    packing: bool = Field(
        default=False, description="Pack several short examples into one sequence; each attends to itself alone."
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after this many checkpoints without a lower validation loss; by default never."
    )
    checkpoint_steps: Annotated[int | Auto, _auto_or(int, least=1)] = Field(
        AUTO, description="Optimizer steps between two checkpoints."
    )
    verdict_rows: int = Field(
        DEFAULT_VERDICT_ROWS,
        ge=0,
        le=MAX_VERDICT_ROWS,
        description="Rows of the validation file that the verdict is made of; 0: no verdict.",
    )


class TrainingOptions(JobOptions, ReinforcementOptions, DistillOptions, PreferenceOptions, FullOptions):
    """Every option. A warm start keeps its own rank, alpha and targets, but for ``full``."""
