"""Grades as the server does, with models that answer what a test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from adapters.errors import AdapterNotFound
from adapters.fair_places import FairPlaces
from trainer.graders.grader import Grade, Sample
from trainer.graders.models import GraderAnswer, NotAnswered, Question, Rewarded, Usage
from trainer.graders.parsing import parse
from trainer.graders.python_processes import PythonBounds, PythonProcesses, PythonUnavailable
from trainer.graders.schema_checks import SchemaChecks

Grading = Callable[..., Awaitable[Grade]]
"""Takes a definition, an answer and the fields of the item."""

BOUNDS = PythonBounds(processes=2, call_s=60.0, memory_bytes=256 << 20)
USAGE = Usage(prompt_tokens=20, completion_tokens=5, cached_tokens=16)


@dataclass
class FakeModels:
    """``judge`` answers with ``says`` and rewards with ``reward_is``; there is no other model."""

    says: str = ""
    refusal: str | None = None
    failure: str | None = None
    vectors: Sequence[Sequence[float]] | None = None
    reward_is: float = 0.0
    asked: list[Question] = field(default_factory=list)
    rewarded: list[Sequence[Mapping[str, Any]]] = field(default_factory=list)
    """The conversations whose reward was asked for."""
    python: PythonProcesses = field(default_factory=lambda: PythonProcesses(BOUNDS, is_allowed=False))
    schemas: SchemaChecks = field(default_factory=lambda: SchemaChecks(FairPlaces(2)))
    project: str = "default"

    def check(self, model: str) -> None:
        if model != "judge":
            raise AdapterNotFound(f"The model `{model}` does not exist.", param="model")

    async def ask(self, question: Question) -> GraderAnswer:
        self.asked.append(question)
        if self.failure is not None:
            raise NotAnswered(self.failure)
        return GraderAnswer("judge@3", self.says, self.refusal, USAGE)

    @property
    def can_embed(self) -> bool:
        return self.vectors is not None

    async def embed(self, *texts: str) -> Sequence[Sequence[float]]:
        if self.failure is not None:
            raise NotAnswered(self.failure)
        assert self.vectors is not None
        return self.vectors[: len(texts)]

    async def check_reward(self, model: str) -> None:
        self.check(model)

    async def reward(
        self, model: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Rewarded:
        self.rewarded.append(messages)
        if self.failure is not None:
            raise NotAnswered(self.failure)
        return Rewarded("judge@3", self.reward_is, Usage(prompt_tokens=20))


@pytest.fixture
async def models() -> AsyncIterator[FakeModels]:
    models = FakeModels()
    async with models.schemas.running():
        yield models


@pytest.fixture
async def python(models: FakeModels) -> AsyncIterator[PythonProcesses]:
    """Allows python graders; skips the test where this machine has no sandbox."""
    models.python = PythonProcesses(BOUNDS)
    async with models.python.running():
        try:
            models.python.check()
        except PythonUnavailable as none:
            pytest.skip(str(none))
        yield models.python


@pytest.fixture
def grade(models: FakeModels) -> Grading:
    """Grades an answer by the definition of a grader."""

    async def graded(definition: dict[str, Any], answer: str = "", /, **item: Any) -> Grade:
        grader = parse(definition, "grader")
        await grader.check(models, "grader")
        return await grader.grade(Sample(answer, item), models)

    return graded
