"""``json_schema``, not OpenAI's: 1 if the answer is JSON that the schema admits, else 0."""

import json
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from trainer.errors import InvalidField
from trainer.graders.grader import Grade, Grader, GradingError, Sample, Ungraded
from trainer.graders.models import Models
from trainer.graders.schema_checks import SchemaTooCostly

MAX_SCHEMA_BYTES: Final = 64 << 10


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(schema))
    except RecursionError:
        raise PydanticCustomError("schema", "Input should be nested less deeply") from None
    if size > MAX_SCHEMA_BYTES:
        context = {"most": f"{MAX_SCHEMA_BYTES:,}", "size": f"{size:,}"}
        raise PydanticCustomError("schema", "Input should have at most {most} bytes, and has {size}", context)
    return schema


class JsonSchemaGrader(Grader):
    """Checks the answer against ``schema``: draft 2020-12, or the one that ``$schema`` names.

    ``$ref`` reaches the schema itself alone, and ``format`` is a comment, as the drafts have it.
    """

    type: Literal["json_schema"]
    json_schema: Annotated[dict[str, Any], AfterValidator(_bounded)] = Field(alias="schema")

    async def check(self, models: Models, where: str) -> None:
        try:
            checked = await models.schemas.check(models.project, self.json_schema)
        except SchemaTooCostly as costly:
            raise InvalidField(f"{where}.schema: {costly}", param=f"{where}.schema") from None
        if checked.invalid is not None:
            raise InvalidField(
                f"{where}.schema: Input should be a JSON schema: {checked.invalid}", param=f"{where}.schema"
            )

    async def score(self, sample: Sample, models: Models) -> Grade:
        try:
            checked = await models.schemas.check(models.project, self.json_schema, sample.output_text)
        except SchemaTooCostly as costly:
            raise Ungraded(GradingError.OTHER, str(costly)) from None
        if checked.invalid is not None:
            raise Ungraded(GradingError.OTHER, f"the grader's schema is not a JSON schema: {checked.invalid}")
        reason = {} if checked.fault is None else {"reason": checked.fault}
        return Grade(float(checked.fault is None), {"valid": checked.fault is None, **reason})
