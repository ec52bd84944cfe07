"""The options of vLLM's server that decide how a conversation becomes a prompt."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class RendererOptions(BaseModel):
    """Options named as vLLM's arguments are, with its defaults. They belong to the weights that a run makes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokenizer: str | None = None
    """Directory or hub id; None: the base model's own."""
    tokenizer_mode: str = "auto"
    tokenizer_revision: str | None = None
    trust_remote_code: bool = False
    hf_overrides: dict[str, Any] = {}
    max_model_len: int | None = None
    """Tokens of a prompt and its answer together; None: as many as the base model takes."""
    generation_config: str = "auto"
    chat_template: str | None = None
    """The template's text; None: the tokenizer's own."""
    chat_template_content_format: str = "auto"
    default_chat_template_kwargs: dict[str, Any] = {}

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """Return the options that vLLM's engine has too, not its HTTP front end alone."""
        front_end = {"chat_template", "chat_template_content_format", "default_chat_template_kwargs"}
        return self.model_dump(exclude=front_end)
