"""``python``: refused. Its source is code of the caller, and this server runs none."""

from __future__ import annotations

from typing import Annotated, Literal, NoReturn

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from trainer.graders.grade import Grade
from trainer.graders.grader import Grader
from trainer.graders.models import Models
from trainer.graders.sample import Sample


def _refused(_type: object) -> NoReturn:
    raise PydanticCustomError(
        "python",
        "this server runs no code of its callers, so it has no python grader: say it as string_check, "
        "text_similarity, score_model or label_model, or combine those with multi",
    )


class PythonGrader(Grader):
    """Known by its fields, so that the refusal is about what matters; none is ever made."""

    type: Annotated[Literal["python"], AfterValidator(_refused)]
    source: str
    image_tag: str | None = None

    async def score(self, sample: Sample, models: Models) -> Grade:
        """See ``Grader.score``."""
        raise AssertionError("refused when it is read")
