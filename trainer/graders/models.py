"""The seam to models that graders ask. The server implements it with its own gateway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class NotAnswered(Exception):
    """A model could not answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one question or of several."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Both kinds; those from the cache are among the prompt's."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked; ``messages`` and ``sampling`` are written as for ``/v1/chat/completions``."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    form: str
    """Regular expression that the whole answer matches."""
    sampling: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GraderAnswer:
    """What a model answered."""

    model: str
    """Which one it was in the end: ``sql@7`` where ``sql`` was asked."""
    text: str
    refusal: str | None
    usage: Usage


class Models(Protocol):
    """Models that may be asked."""

    def check(self, model: str) -> None:
        """Make sure that ``model`` can be asked.

        Raises:
            NotFound, WrongBase: there is none of that name.
            PatchbayError: nothing can be asked, or not at present.
        """

    async def ask(self, question: Question) -> GraderAnswer:
        """Ask one question.

        Raises:
            NotAnswered: the model, or the server for it, said no.
        """

    @property
    def can_embed(self) -> bool:
        """Whether ``embed`` works here.

        Raises:
            PatchbayError: nothing can be asked at present.
        """

    async def embed(self, *texts: str) -> Sequence[Sequence[float]]:
        """Return a vector for each text, all of the same length.

        Raises:
            NotAnswered: the server said no.
        """
