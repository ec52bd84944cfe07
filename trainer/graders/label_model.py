"""``label_model``: a model chooses a label; 1 if that is one that passes, else 0."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from trainer.graders.grade import Grade
from trainer.graders.model_grader import ModelGrader, unreadable

Labels = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(min_length=1, max_length=256)]


class LabelModelGrader(ModelGrader):
    """``scores`` has the label."""

    type: Literal["label_model"]
    labels: Labels
    passing_labels: Labels

    @field_validator("passing_labels")
    @classmethod
    def _are_labels(cls, passing: list[str], others: ValidationInfo) -> list[str]:
        for label in passing:
            if label not in others.data.get("labels", passing):
                said = {"label": label}
                raise PydanticCustomError("labels", "Input should be some of the labels; '{label}' is not one", said)
        return passing

    @property
    def result_form(self) -> str:
        """See ``ModelGrader.result_form``."""
        return "|".join(re.escape(json.dumps(label, ensure_ascii=False)) for label in self.labels)

    def worth(self, result: Any) -> Grade:
        """See ``ModelGrader.worth``."""
        if result not in self.labels:
            raise unreadable(result)
        return Grade(float(result in self.passing_labels), {"label": result})
