"""Feedback on answers: which of them were good, better or best, with the prompt that they answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

MAX_ANSWERS: Final = 16
"""Answers of one ranking: a row of preferences for each pair of them."""
MAX_COMMENT: Final = 4096

Json = Mapping[str, Any]
Rating = Literal["up", "down"]


class FeedbackKind(StrEnum):
    """What a caller said about answers."""

    RATING = "rating"
    CORRECTION = "correction"
    PREFERENCE = "preference"
    RANKING = "ranking"


@dataclass(frozen=True, slots=True)
class RatedAnswer:
    """An answer as the server gave it."""

    id: str
    """Of the chat completion or the response."""
    choice: int
    """Index among the answers to one request for several (``n``)."""
    model: str
    """The version that answered, or the base model."""
    message: Json
    """The assistant's message."""


@dataclass(frozen=True, slots=True)
class FeedbackDraft:
    """Feedback that is not stored yet; all ``answers`` are to the same prompt."""

    project: str
    kind: FeedbackKind
    prompt: Sequence[Json]
    """Messages of a chat."""
    tools: Sequence[Json]
    answers: Sequence[RatedAnswer]
    """One; of a preference or a ranking several, the best first."""
    rating: Rating | None = None
    correction: Json | None = None
    """The message that the assistant should have answered."""
    comment: str | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Feedback(FeedbackDraft):
    """Stored feedback."""

    id: str = ""
    created_at: datetime = datetime.min
