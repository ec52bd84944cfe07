"""What comes of grading: a reward, and what went wrong where it is 0 for that reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trainer.graders.models import Usage


class Trouble(StrEnum):
    """Why there is no score; the values are OpenAI's names."""

    FORMULA = "formula_parse_error"
    """The formula comes to no number."""
    VARIABLE = "invalid_variable_error"
    """A template names what is not there."""
    SAMPLE = "sample_parse_error"
    """A template reads JSON out of an answer that is none."""
    MODEL_PARSE = "model_grader_parse_error"
    """The model's answer holds no score."""
    MODEL_REFUSAL = "model_grader_refusal_error"
    MODEL_SERVER = "model_grader_server_error"
    OTHER = "other_error"
    """A text is too long."""


class Ungraded(Exception):
    """A grader came to no score; it ends as a reward of 0 that says so."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


@dataclass(frozen=True, slots=True)
class Grade:
    """What a grader came to."""

    reward: float
    scores: Mapping[str, Any] = field(default_factory=dict)
    """What the reward was made of."""
    sub_rewards: Mapping[str, float] = field(default_factory=dict)
    """Of the graders that were combined, by name."""
    troubles: Mapping[Trouble, str] = field(default_factory=dict)
    """What went wrong, each in words; with one of a grader's own its reward is 0."""
    usage: Mapping[str, Usage] = field(default_factory=dict)
    """By the model that was asked."""
