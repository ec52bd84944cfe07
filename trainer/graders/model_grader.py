"""What ``score_model`` and ``label_model`` share: a model is asked, and its answer has a form.

OpenAI's form: ``{"steps": [{"description", "conclusion"}, …], "result": …}``. The steps come first: what follows from
them is said after them. The form is held by a regular expression and not by a JSON schema, between whose parts JSON
lets any number of blanks stand: small models write blanks until the context is full. Every part of it is bounded too.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

from pydantic import Field

from adapters import strict_json
from adapters.errors import NotFound, WrongBase
from trainer.errors import InvalidField
from trainer.graders.grade import Grade, Trouble, Ungraded
from trainer.graders.grader import Grader
from trainer.graders.message import Message
from trainer.graders.models import GraderAnswer, Models, NotAnswered, Question
from trainer.graders.sample import Sample

MAX_STEPS: Final = 4
MAX_STEP_CHARACTERS: Final = 200
"""Of a description, and of a conclusion."""
MAX_TOKENS: Final = 2048
"""Of an answer, where nobody says."""

_TEXT: Final = rf'"([^"\\\x00-\x1f]|\\["\\/bfnrt]){{0,{MAX_STEP_CHARACTERS}}}"'
_STEP: Final = rf'\{{"description": {_TEXT}, "conclusion": {_TEXT}\}}'
_STEPS: Final = rf"\[({_STEP}(, {_STEP}){{0,{MAX_STEPS - 1}}})?\]"


class ModelGrader(Grader):
    """Asks ``model`` about the sample; a subclass says what results there are and what they are worth."""

    model: Annotated[str, Field(min_length=1)]
    """Any reference that the server serves."""
    input: Annotated[list[Message], Field(min_length=1, max_length=64)]

    @property
    def sampling(self) -> Mapping[str, Any]:
        """What is said of sampling, as ``/v1/chat/completions`` takes it."""
        return {}

    @property
    @abstractmethod
    def result_form(self) -> str:
        """Regular expression of a result, as JSON."""

    @abstractmethod
    def worth(self, result: Any) -> Grade:
        """Return what ``result`` is worth.

        Raises:
            Ungraded: it is no result; engines without structured output may give one.
        """

    def check(self, models: Models, where: str) -> None:
        """See ``Grader.check``."""
        try:
            models.check(self.model)
        except (NotFound, WrongBase) as unknown:
            raise InvalidField(unknown.message, param=f"{where}.model") from unknown

    async def score(self, sample: Sample, models: Models) -> Grade:
        """See ``Grader.score``. An answer without a score was paid for all the same: its tokens are counted."""
        messages = [message.rendered(sample) for message in self.input]
        form = rf'\{{"steps": {_STEPS}, "result": ({self.result_form})\}}'
        sampling = {"max_completion_tokens": MAX_TOKENS, **self.sampling}
        try:
            answer = await models.ask(Question(self.model, messages, form, sampling))
        except NotAnswered as refused:
            raise Ungraded(Trouble.MODEL_SERVER, str(refused)) from refused
        try:
            grade = self.worth(_result(answer))
        except Ungraded as why:
            grade = Grade(0.0, troubles={why.trouble: str(why)})
        return replace(grade, usage={answer.model: answer.usage})


def _result(answer: GraderAnswer) -> Any:
    if answer.refusal is not None:
        raise Ungraded(Trouble.MODEL_REFUSAL, answer.refusal)
    try:
        return strict_json.parse(answer.text.encode())["result"]
    except (ValueError, LookupError, TypeError):
        raise unreadable(answer.text) from None


def unreadable(said: object) -> Ungraded:
    """Return the error for an answer that holds no score."""
    return Ungraded(Trouble.MODEL_PARSE, f"the model's answer holds no result as it was asked for: {said!r:.200}")
