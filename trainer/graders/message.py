"""Messages to a model that grades: OpenAI's content blocks with templates in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from trainer.graders.grader import Definition
from trainer.graders.sample import Sample
from trainer.graders.template import Template, render


class Text(Definition):
    """Text: of the caller, or an answer of a model."""

    type: Literal["input_text", "output_text"]
    text: Template

    def rendered(self, sample: Sample) -> dict[str, Any]:
        """Return the block for a chat."""
        return {"type": "text", "text": render(self.text, sample)}


class Image(Definition):
    """An image by its URL."""

    type: Literal["input_image"]
    image_url: Template
    detail: Literal["low", "high", "auto"] = "auto"

    def rendered(self, sample: Sample) -> dict[str, Any]:
        """Return the block for a chat."""
        return {"type": "image_url", "image_url": {"url": render(self.image_url, sample), "detail": self.detail}}


class Sound(Definition):
    """The bytes of a sound."""

    data: Template
    """In base64."""
    format: Literal["mp3", "wav"]


class Audio(Definition):
    """A sound."""

    type: Literal["input_audio"]
    input_audio: Sound

    def rendered(self, sample: Sample) -> dict[str, Any]:
        """Return the block for a chat."""
        sound = {"data": render(self.input_audio.data, sample), "format": self.input_audio.format}
        return {"type": "input_audio", "input_audio": sound}


def _blocks(content: object) -> object:
    """Return ``content`` as blocks: it may be text, a block, or a list of both."""
    blocks = content if isinstance(content, list) else [content]
    return [{"type": "input_text", "text": block} if isinstance(block, str) else block for block in blocks]


Block = Annotated[Text | Image | Audio, Field(discriminator="type")]


class Message(Definition):
    """One message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[list[Block], BeforeValidator(_blocks), Field(min_length=1, max_length=64)]

    def rendered(self, sample: Sample) -> dict[str, Any]:
        """Return the message for a chat; text alone as text, which every chat template takes.

        Raises:
            Ungraded: as ``render``.
        """
        role = "system" if self.role == "developer" else self.role  # OpenAI's newer word for the same
        blocks = [block.rendered(sample) for block in self.content]
        if all(block["type"] == "text" for block in blocks):
            return {"role": role, "content": "\n".join(block["text"] for block in blocks)}
        return {"role": role, "content": blocks}
