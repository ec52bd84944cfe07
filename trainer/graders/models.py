"""The interface to what grades beside formulas: models, and code; the server implements it through its own gateway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from trainer.graders.python_processes import PythonProcesses
    from trainer.graders.schema_checks import SchemaChecks


class NotAnswered(Exception):
    """A model did not answer; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request or the sum of several."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion; cached tokens are part of the prompt."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class Question:
    """A request to a model; ``messages`` and ``sampling`` in the form of ``/v1/chat/completions``."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    pattern: str
    """Regular expression that the whole answer must match."""
    sampling: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GraderAnswer:
    """The answer of a model."""

    model: str
    """The resolved model: ``sql@7`` if the request named ``sql``."""
    text: str
    refusal: str | None
    usage: Usage


@dataclass(frozen=True, slots=True)
class Rewarded:
    """The reward that a reward model gives a conversation."""

    model: str
    """The resolved model."""
    reward: float
    usage: Usage


class Models(Protocol):
    """Sends requests to models."""

    @property
    def project(self) -> str:
        """The project whose grader this is."""

    @property
    def python(self) -> PythonProcesses:
        """Runs the code of python graders."""

    @property
    def schemas(self) -> SchemaChecks:
        """Checks texts against JSON schemas."""

    def check(self, model: str) -> None:
        """Check that ``model`` can answer.

        Raises:
            NotFound, WrongBase: no model has that name.
            PatchbayError: no model can answer, or not at present.
        """

    async def ask(self, question: Question) -> GraderAnswer:
        """Return the answer to one request.

        Raises:
            NotAnswered: the server refused the request.
        """

    @property
    def can_embed(self) -> bool:
        """Whether the base model makes embeddings.

        Raises:
            PatchbayError: no model can answer at present.
        """

    async def embed(self, *texts: str) -> Sequence[Sequence[float]]:
        """Return a vector for each text, all of the same length.

        Raises:
            NotAnswered: the server refused the request.
        """

    async def check_reward(self, model: str) -> None:
        """Check that ``model`` is a reward model.

        Raises:
            NotFound, WrongBase: no model has that name, or it is no reward model.
            PatchbayError: no model can answer, or not at present.
        """

    async def reward(
        self, model: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Rewarded:
        """Return the reward of the last of ``messages``, in the form of ``/v1/chat/completions``.

        Raises:
            NotAnswered: the server refused the request.
        """
