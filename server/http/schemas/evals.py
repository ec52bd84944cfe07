"""OpenAI's evals in requests and responses. https://platform.openai.com/docs/api-reference/evals"""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field

from server.http.schemas.base import Body, Json, ResponseObject, UnixTime
from trainer.evals.objects import Eval, EvalDraft, EvalItem, EvalRun, EvalRunDraft, ItemStatus
from trainer.evals.state import EvalRunState
from trainer.jobs.job import MAX_KEY_LENGTH, MAX_PAIRS, MAX_VALUE_LENGTH

_Key = Annotated[str, Field(max_length=MAX_KEY_LENGTH)]
_Value = Annotated[str, Field(max_length=MAX_VALUE_LENGTH)]
_Metadata = Annotated[dict[_Key, _Value], Field(max_length=MAX_PAIRS)]
_Name = Annotated[str, Field(max_length=256)]

_EXACT: Final = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
    "operation": "eq",
}
_CONFIG: Final = {
    "type": "custom",
    "item_schema": {"type": "object", "properties": {"reference": {"type": "string"}}},
    "include_sample_schema": True,
}
_SOURCE: Final = {
    "type": "jsonl",
    "source": {"type": "file_content", "content": [{"item": {"reference": "4"}, "sample": {"output_text": "4"}}]},
}
_SAMPLE_SCHEMA: Final = {
    "type": "object",
    "properties": {"output_text": {"type": "string"}, "output_json": {}},
    "required": ["output_text"],
}


class EvalBody(Body):
    """Body of a new eval."""

    name: _Name = ""
    metadata: _Metadata | None = None
    data_source_config: Json = Field(examples=[_CONFIG])
    testing_criteria: list[Json] = Field(examples=[[_EXACT]])

    def draft(self, project: str) -> EvalDraft:
        return EvalDraft(self.name, self.data_source_config, self.testing_criteria, self.metadata, project)


class EvalChanges(Body):
    """Body of an update: the fields that are sent are changed."""

    name: _Name | None = None
    metadata: _Metadata | None = None

    @property
    def values(self) -> Json:
        stated = self.model_dump(exclude_unset=True)
        return {key: value for key, value in stated.items() if key != "name" or value is not None}


class EvalRunBody(Body):
    """Body of a new run."""

    name: _Name = ""
    metadata: _Metadata | None = None
    data_source: Json = Field(examples=[_SOURCE])

    def draft(self, key_id: str | None) -> EvalRunDraft:
        """Return the run to create for the key with the id ``key_id``; its model is not resolved yet."""
        return EvalRunDraft(self.name, self.data_source, "", self.metadata, key_id)


class EvalObject(ResponseObject):
    """An eval; ``data_source_config.schema`` is that of a row: its item, and with a sample the model's answer."""

    object: Literal["eval"] = "eval"
    id: str
    created_at: UnixTime
    name: str
    metadata: dict[str, str] | None
    data_source_config: dict[str, Any]
    testing_criteria: list[dict[str, Any]]

    @classmethod
    def from_eval(cls, found: Eval) -> Self:
        config = found.data_source_config
        properties = {"item": config["item_schema"]}
        if config.get("include_sample_schema"):
            properties["sample"] = _SAMPLE_SCHEMA
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        return cls.model_validate(found).model_copy(
            update={"data_source_config": {"type": config["type"], "schema": schema}}
        )


class EvalError(ResponseObject):
    """Why a run failed."""

    code: str
    message: str


class EvalResultCounts(ResponseObject):
    """The items with results: all, and those that passed every criterion, failed one, or could not be judged."""

    total: int = Field(validation_alias="executed")
    passed: int
    failed: int
    errored: int


class CriterionResults(ResponseObject):
    """The items that passed and failed one criterion."""

    testing_criteria: str
    passed: int
    failed: int


class ModelUsage(ResponseObject):
    """The requests and tokens of one model, graders' included."""

    model_name: str
    invocation_count: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    total_tokens: int


class EvalRunObject(ResponseObject):
    """A run of an eval. ``items`` is not OpenAI's: the items of the data source, with and without results."""

    object: Literal["eval.run"] = "eval.run"
    id: str
    created_at: UnixTime
    eval_id: str
    name: str
    metadata: dict[str, str] | None
    status: EvalRunState = Field(validation_alias="state")
    model: str
    data_source: dict[str, Any]
    error: EvalError | None
    report_url: str
    items: int = Field(validation_alias="total")
    result_counts: EvalResultCounts
    per_testing_criteria_results: list[CriterionResults]
    per_model_usage: list[ModelUsage]

    @classmethod
    def from_run(cls, run: EvalRun, of: Eval) -> Self:
        names = [str(definition["name"]) for definition in of.testing_criteria]
        fields = {name: getattr(run, name) for name in EvalRun.__slots__}
        return cls.model_validate(
            {
                **fields,
                "report_url": f"/v1/evals/{run.eval_id}/runs/{run.id}/output_items",
                "result_counts": run,
                "per_testing_criteria_results": [
                    {"testing_criteria": name, **counts} for name, counts in zip(names, run.per_criterion, strict=True)
                ],
                "per_model_usage": [{"model_name": name, **usage} for name, usage in run.per_model.items()],
            }
        )


class OutputItemObject(ResponseObject):
    """An item with the answer to it and a result for each testing criterion."""

    object: Literal["eval.run.output_item"] = "eval.run.output_item"
    id: str
    created_at: UnixTime
    eval_id: str
    run_id: str
    datasource_item_id: int = Field(validation_alias="position")
    datasource_item: dict[str, Any] = Field(validation_alias="item")
    status: ItemStatus
    sample: dict[str, Any]
    results: list[dict[str, Any]]

    @classmethod
    def from_item(cls, item: EvalItem, run: EvalRun) -> Self:
        fields = {name: getattr(item, name) for name in EvalItem.__slots__}
        return cls.model_validate({**fields, "eval_id": run.eval_id, "run_id": run.id})


class DeletedEval(ResponseObject):
    """The confirmation that an eval was deleted."""

    object: Literal["eval.deleted"] = "eval.deleted"
    eval_id: str
    deleted: Literal[True] = True


class DeletedEvalRun(ResponseObject):
    """The confirmation that a run was deleted."""

    object: Literal["eval.run.deleted"] = "eval.run.deleted"
    run_id: str
    deleted: Literal[True] = True
