"""The data sources of evals and their runs, in OpenAI's form; what this server lacks is refused by name.

https://platform.openai.com/docs/api-reference/evals
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from trainer.errors import InvalidField
from trainer.graders.grader import Definition, Sample
from trainer.graders.message import Message
from trainer.graders.parsing import invalid_field
from trainer.graders.template import is_path, look_up

_NO_LOGS: Final = (
    "this server keeps no log of chat completions to take items from: send the items as file_content, or upload them "
    "with purpose 'evals' and name them as file_id"
)
_UNSUPPORTED: Final[Mapping[str, str]] = {"stored_completions": _NO_LOGS, "logs": _NO_LOGS, "responses": _NO_LOGS}
_NO_RESPONSES: Final = "runs ask /v1/chat/completions: use type 'completions' with the same source and input_messages"


class CustomConfig(Definition):
    """The form of an eval's items."""

    type: Literal["custom"]
    item_schema: dict[str, Any]
    include_sample_schema: bool = False


class ContentRow(Definition):
    """A row of a source: an item, and the answer to it."""

    item: dict[str, Any]
    sample: dict[str, Any] | None = None


class FileContent(Definition):
    """Rows in the request."""

    type: Literal["file_content"]
    content: Annotated[list[ContentRow], Field(min_length=1)]


class FileId(Definition):
    """Rows in an uploaded file."""

    type: Literal["file_id"]
    id: str


Source = Annotated[FileContent | FileId, Field(discriminator="type")]


class JsonlSource(Definition):
    """Items with their answers, or items that need none: no model is asked."""

    type: Literal["jsonl"]
    source: Source


class TemplateMessages(Definition):
    """Messages with ``{{item.…}}`` in them."""

    type: Literal["template"]
    template: Annotated[list[Message], Field(min_length=1, max_length=64)]


def _path(text: str) -> str:
    if not is_path(text) or not text.strip().startswith("item"):
        raise PydanticCustomError("item_path", "Input should be a path such as item.messages")
    return text


class ReferencedMessages(Definition):
    """Messages that stand in each item."""

    type: Literal["item_reference"]
    item_reference: Annotated[str, AfterValidator(_path)]


class RunSampling(Definition):
    """OpenAI's ``sampling_params`` of a run, in the names of ``/v1/chat/completions``."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    response_format: dict[str, Any] | None = None


class CompletionsSource(Definition):
    """Items that a model is asked about."""

    type: Literal["completions"]
    source: Source
    model: Annotated[str, Field(min_length=1)]
    input_messages: Annotated[TemplateMessages | ReferencedMessages, Field(discriminator="type")]
    sampling_params: RunSampling = RunSampling()

    def messages(self, item: Mapping[str, Any]) -> list[Any]:
        """Return the messages to send for ``item``.

        Raises:
            Ungraded: a variable does not exist, or a text grows too long.
        """
        sample = Sample("", item)
        match self.input_messages:
            case TemplateMessages(template=template):
                return [message.rendered(sample) for message in template]
            case ReferencedMessages(item_reference=path):
                value = look_up(path, sample)
                return value if isinstance(value, list) else [value]


RunSource = JsonlSource | CompletionsSource
_CONFIG: Final = TypeAdapter(CustomConfig)
_RUN_SOURCE: Final[TypeAdapter[RunSource]] = TypeAdapter(
    Annotated[JsonlSource | CompletionsSource, Field(discriminator="type")]
)


def parse_config(value: Mapping[str, Any]) -> CustomConfig:
    """Return the ``data_source_config`` of an eval; raises InvalidField."""
    where = "data_source_config"
    _refuse_unsupported(value, where, _UNSUPPORTED)
    try:
        return _CONFIG.validate_python(value)
    except ValidationError as invalid:
        raise invalid_field(invalid, value, where) from None


def parse_run_source(value: Mapping[str, Any]) -> RunSource:
    """Return the ``data_source`` of a run; raises InvalidField."""
    where = "data_source"
    _refuse_unsupported(value, where, {"responses": _NO_RESPONSES})
    _refuse_unsupported(value.get("source"), f"{where}.source", _UNSUPPORTED)
    sampling = value.get("sampling_params")
    if isinstance(sampling, dict) and sampling.get("tools"):
        param = f"{where}.sampling_params.tools"
        raise InvalidField(
            f"{param}: graders read the text of an answer, not its tool calls: leave tools out, or ask for JSON with "
            "response_format",
            param=param,
        )
    try:
        return _RUN_SOURCE.validate_python(value)
    except ValidationError as invalid:
        raise invalid_field(invalid, value, where) from None


def _refuse_unsupported(value: Any, where: str, reasons: Mapping[str, str]) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind in reasons:
        raise InvalidField(f"{where}.type '{kind}': {reasons[kind]}", param=f"{where}.type")


def texts_in(value: Any) -> Sequence[str]:
    """Return every string in parsed JSON, keys left out."""
    texts, pending = [], [value]
    while pending:
        match pending.pop():
            case str(text):
                texts.append(text)
            case Mapping() as entries:
                pending += entries.values()
            case list() as entries:
                pending += entries
    return texts
