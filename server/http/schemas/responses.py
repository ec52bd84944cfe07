"""OpenAI's stored responses. https://platform.openai.com/docs/api-reference/responses"""

from typing import Any, Literal, Self

from pydantic import ConfigDict

from server.http.schemas.base import ListObject, ResponseObject
from server.responses.response_store import StoredResponse


class StoredResponseObject(ResponseObject):
    """A response as it was answered; vLLM's model has the further fields."""

    model_config = ConfigDict(extra="allow")

    object: Literal["response"] = "response"
    id: str


class StoredCompletionObject(ResponseObject):
    """A chat completion as it was answered, with the tools and the metadata of its request."""

    model_config = ConfigDict(extra="allow")

    object: Literal["chat.completion"] = "chat.completion"
    id: str


class InputItemObject(ResponseObject):
    """An item that a response answers; its type has the further fields."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: str

    @classmethod
    def all_of(cls, response: StoredResponse) -> list[Self]:
        """Return the items in their order. Those that came without an id get one of the response's."""
        number = response.id.removeprefix("resp_")
        return [
            cls.model_validate({"id": f"msg_{number}_{place}", "type": "message", **_listed(item)})
            for place, item in enumerate(response.input)
        ]


InputItemList = ListObject[InputItemObject]


def _listed(item: Any) -> dict[str, Any]:
    """Return an item of a request in the form of a list: the text of a message as a part of its content."""
    fields = {name: value for name, value in dict(item).items() if not (name == "id" and value is None)}
    if isinstance(text := fields.get("content"), str) and fields.get("type", "message") == "message":
        part: dict[str, Any] = {"type": "input_text", "text": text}
        if fields.get("role") == "assistant":
            part = {"type": "output_text", "text": text, "annotations": []}
        return {"status": "completed", **fields, "content": [part]}
    return fields
