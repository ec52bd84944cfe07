"""OpenAI's batches in requests and responses. https://platform.openai.com/docs/api-reference/batch"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator

from server.batches.batch import BatchDraft, RequestBatch
from server.batches.state import BatchState
from server.http.schemas.base import Body, ExpiresAfter, ResponseObject, UnixTime
from trainer.jobs.job import MAX_KEY_LENGTH, MAX_PAIRS, MAX_VALUE_LENGTH

_Key = Annotated[str, Field(max_length=MAX_KEY_LENGTH)]
_Value = Annotated[str, Field(max_length=MAX_VALUE_LENGTH)]


class BatchBody(Body):
    """Body of a new batch."""

    completion_window: Literal["24h"]
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    input_file_id: str
    metadata: dict[_Key, _Value] | None = Field(None, max_length=MAX_PAIRS)
    output_expires_after: ExpiresAfter | None = None

    def draft(self, key_id: str | None, project: str) -> BatchDraft:
        """Return the batch to create for the key with the id ``key_id``, which belongs to ``project``."""
        expiry = self.output_expires_after
        return BatchDraft(
            self.endpoint,
            self.input_file_id,
            self.metadata,
            None if expiry is None else expiry.seconds,
            key_id,
            project,
        )


class BatchErrorObject(ResponseObject):
    """A fault of the input file; ``line`` counts from 1."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrorList(ResponseObject):
    """The faults of the input file, at most 201."""

    object: Literal["list"] = "list"
    data: list[BatchErrorObject]


class BatchCounts(ResponseObject):
    """The lines of a batch: all, those answered with status 200, and those answered with another one."""

    total: int
    completed: int
    failed: int


class BatchObject(ResponseObject):
    """A batch."""

    object: Literal["batch"] = "batch"
    id: str
    endpoint: str
    model: str | None
    errors: BatchErrorList | None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: BatchState = Field(validation_alias="state")
    output_file_id: str | None
    error_file_id: str | None
    created_at: UnixTime
    in_progress_at: UnixTime | None
    expires_at: UnixTime
    finalizing_at: UnixTime | None
    completed_at: UnixTime | None
    failed_at: UnixTime | None
    expired_at: UnixTime | None
    cancelling_at: UnixTime | None
    cancelled_at: UnixTime | None
    request_counts: BatchCounts
    metadata: dict[str, str] | None

    @field_validator("errors", mode="before")
    @classmethod
    def _listed(cls, errors: Any) -> Any:
        return None if errors is None else {"data": errors}

    @classmethod
    def from_batch(cls, batch: RequestBatch) -> Self:
        fields = {name: getattr(batch, name) for name in RequestBatch.__slots__}
        return cls.model_validate({**fields, "request_counts": batch})
