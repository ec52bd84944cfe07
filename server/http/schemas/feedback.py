"""Feedback on answers, in requests and responses. Not OpenAI's: its API has none."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from server.http.schemas.base import Body, Json, ResponseObject, UnixTime
from trainer.feedback.feedback import MAX_ANSWERS, MAX_COMMENT, Feedback, FeedbackKind, Rating
from trainer.feedback.training_rows import FeedbackFormat

AnswerId = Annotated[str, Field(min_length=1, max_length=128)]


class ChoiceBody(Body):
    """One of several answers to a request."""

    id: AnswerId
    choice: int = Field(0, ge=0, description="Index among the `choices` of a chat completion with `n` above 1.")


AnswerBody = AnswerId | ChoiceBody
"""The id of a chat completion or of a response, or that with the index of a choice."""


class CorrectedMessage(Body):
    """The message that an answer should have been."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    tool_calls: Annotated[list[Json], Field(min_length=1, max_length=128)] | None = None

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if not self.content and not self.tool_calls:
            raise PydanticCustomError("feedback", "Input should have content or tool_calls")
        return self


class FeedbackBody(Body):
    """Body of new feedback: `answer` with `rating` or `correction`, or `preferred` and `rejected`, or `ranking`."""

    answer: AnswerBody | None = Field(None, description="The answer that is rated or corrected.")
    rating: Rating | None = None
    correction: Annotated[str, Field(min_length=1)] | CorrectedMessage | None = Field(
        None,
        description="Text or message that the answer should have been.",
    )
    preferred: AnswerBody | None = Field(None, description="The better one of two answers to the same prompt.")
    rejected: AnswerBody | None = Field(None, description="The worse one.")
    ranking: Annotated[list[AnswerBody], Field(min_length=2, max_length=MAX_ANSWERS)] | None = Field(
        None, description="Answers to the same prompt, the best first."
    )
    comment: Annotated[str, Field(max_length=MAX_COMMENT)] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        names = ("answer", "rating", "correction", "preferred", "rejected", "ranking")
        stated = {name for name in names if getattr(self, name) is not None}
        if stated not in _KINDS.values():
            raise PydanticCustomError(
                "feedback",
                "Input should have answer and rating, or answer and correction, or preferred and rejected, or ranking",
            )
        return self

    @property
    def kind(self) -> FeedbackKind:
        return next(kind for kind, names in _KINDS.items() if all(getattr(self, name) is not None for name in names))

    @property
    def named(self) -> dict[str, ChoiceBody]:
        """The answers by their field, the best first."""
        stated = {"answer": self.answer, "preferred": self.preferred, "rejected": self.rejected}
        ranked = {f"ranking.{place}": answer for place, answer in enumerate(self.ranking or ())}
        bodies = {name: answer for name, answer in {**stated, **ranked}.items() if answer is not None}
        return {name: ChoiceBody(id=each) if isinstance(each, str) else each for name, each in bodies.items()}

    @property
    def corrected(self) -> Json | None:
        """The correction as a message."""
        stated = self.correction
        message = CorrectedMessage(content=stated) if isinstance(stated, str) else stated
        return None if message is None else message.model_dump(exclude_none=True)


_KINDS: dict[FeedbackKind, set[str]] = {
    FeedbackKind.RATING: {"answer", "rating"},
    FeedbackKind.CORRECTION: {"answer", "correction"},
    FeedbackKind.PREFERENCE: {"preferred", "rejected"},
    FeedbackKind.RANKING: {"ranking"},
}


class ExportBody(Body):
    """Body of an export."""

    form: FeedbackFormat = Field(alias="as", description="The method that the rows are for; ranking: of reward models.")
    since: datetime | None = Field(None, description="Only feedback from this time on: Unix seconds or ISO 8601.")
    adapter: Annotated[str, Field(max_length=128)] | None = Field(
        None, description="Only feedback on answers of this adapter's versions."
    )


class RatedAnswerObject(ResponseObject):
    """An answer that feedback is about."""

    id: str
    choice: int
    model: str
    message: dict[str, Any]


class FeedbackObject(ResponseObject):
    """Feedback, with the prompt and the answers that it is about; of several the best first."""

    object: Literal["feedback"] = "feedback"
    id: str
    created_at: UnixTime
    kind: FeedbackKind
    rating: Rating | None
    correction: dict[str, Any] | None
    prompt: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    answers: list[RatedAnswerObject]
    comment: str | None
    metadata: dict[str, str] | None

    @classmethod
    def from_feedback(cls, feedback: Feedback) -> Self:
        return cls.model_validate(feedback)
