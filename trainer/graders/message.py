"""Messages to a grading model: OpenAI's content blocks with templates in them.

``rendered`` returns the form of ``/v1/chat/completions``.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from trainer.graders.grader import Definition, Sample
from trainer.graders.template import Template, render


class Text(Definition):
    """Text of the caller, or an earlier answer of a model."""

    type: Literal["input_text", "output_text"]
    text: Template

    def rendered(self, sample: Sample) -> dict[str, Any]:
        return {"type": "text", "text": render(self.text, sample)}


class Image(Definition):
    """An image by its URL."""

    type: Literal["input_image"]
    image_url: Template
    detail: Literal["low", "high", "auto"] = "auto"

    def rendered(self, sample: Sample) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": render(self.image_url, sample), "detail": self.detail}}


class Sound(Definition):
    """The bytes of an audio block."""

    data: Template
    """Base64."""
    format: Literal["mp3", "wav"]


class Audio(Definition):
    """Audio."""

    type: Literal["input_audio"]
    input_audio: Sound

    def rendered(self, sample: Sample) -> dict[str, Any]:
        sound = {"data": render(self.input_audio.data, sample), "format": self.input_audio.format}
        return {"type": "input_audio", "input_audio": sound}


def _blocks(content: object) -> object:
    """Return ``content`` as a list of blocks; it is a text, a block, or a list of both."""
    blocks = content if isinstance(content, list) else [content]
    return [{"type": "input_text", "text": block} if isinstance(block, str) else block for block in blocks]


Block = Annotated[Text | Image | Audio, Field(discriminator="type")]


class Message(Definition):
    """A message in OpenAI's form."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[list[Block], BeforeValidator(_blocks), Field(min_length=1, max_length=64)]

    def rendered(self, sample: Sample) -> dict[str, Any]:
        """Return the message for ``/v1/chat/completions``; text alone as a string, which all chat templates accept.

        Raises:
            Ungraded: as ``render``.
        """
        role = "system" if self.role == "developer" else self.role  # OpenAI's newer name of the role
        blocks = [block.rendered(sample) for block in self.content]
        if all(block["type"] == "text" for block in blocks):
            return {"role": role, "content": "\n".join(block["text"] for block in blocks)}
        return {"role": role, "content": blocks}
