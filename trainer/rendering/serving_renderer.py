"""vLLM's renderer without an engine: the prompt of a conversation is the one that the server builds for it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.renderers import renderer_from_config
from vllm.renderers.hf import HfRenderer, resolve_chat_template
from vllm.renderers.online_renderer import OnlineRenderer

from trainer.data.faults import shown
from trainer.data.rows import Message, Tool
from trainer.endings import BaseRefused
from trainer.renderer_options import RendererOptions

if TYPE_CHECKING:
    from vllm.config import ModelConfig

_NO_LIMIT: Final = 2**31 - 2
"""Tokens: a row that is too long is a fault with its length, not a prompt that vLLM refuses."""


class TemplateRefused(Exception):
    """The server refuses the conversation; the message has its reason."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation."""

    text: str
    ids: list[int]


class ServingRenderer:
    """Renders conversations for the base model in a directory, as a server with ``options`` does.

    Raises (when made):
        BaseRefused: vLLM cannot read the base's config or tokenizer, or there is no chat template.
    """

    def __init__(self, base: Path, options: RendererOptions) -> None:
        try:
            config = AsyncEngineArgs(model=str(base), **options.engine_arguments).create_model_config()
            config.quantization = None  # renders only: no kernel has to exist
            renderer = renderer_from_config(VllmConfig(model_config=config))
        except (OSError, ValueError) as error:
            raise BaseRefused(f"{base.name} cannot be read as a model: {shown(str(error))}") from error
        self.context: int = config.max_model_len
        self.tokenizer = renderer.get_tokenizer()
        self.stop_ids = _stop_ids(config, self.tokenizer.eos_token_id)
        config.max_model_len = _NO_LIMIT
        self._online = OnlineRenderer(
            config,
            renderer,
            request_logger=None,
            chat_template=options.chat_template,
            chat_template_content_format=options.chat_template_content_format,
            enable_auto_tools=True,
            default_chat_template_kwargs=options.default_chat_template_kwargs,
        )
        if isinstance(renderer, HfRenderer) and _template(self._online, None) is None:
            raise BaseRefused(
                f"the tokenizer of {base.name} has no chat template; training needs the one that serves: start the "
                "server with --chat-template"
            )
        self.sha256 = digest(self._online)
        self._stated: dict[str, Any] = {}
        self._loop = asyncio.new_event_loop()

    def with_arguments(self, arguments: Mapping[str, Any]) -> ServingRenderer:
        """Return this renderer for requests that state ``arguments`` as ``chat_template_kwargs``."""
        other = copy(self)
        other._stated = {"chat_template_kwargs": dict(arguments)}
        return other

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool], *, asking: bool) -> Prompt:
        """Return the prompt that the server builds for a chat completion request.

        Args:
            messages: as in a chat completion request.
            tools: as in a chat completion request; none: the request has no tools.
            asking: with the generation prompt after the last message.

        Raises:
            TemplateRefused: the server answers the request with an error.
        """
        body = {"messages": messages, "tools": tools or None, "add_generation_prompt": asking} | self._stated
        try:
            # parsed anew, as a request is: vLLM's model changes the objects that it is given
            request = ChatCompletionRequest.model_validate(json.loads(json.dumps(body)))
            rendered = self._loop.run_until_complete(self._online.render_chat(request))
        except ValidationError as error:
            first = error.errors()[0]
            raise TemplateRefused(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        except (VLLMValidationError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise TemplateRefused(f"{type(error).__name__}: {error}") from error  # a template's code may raise any
        if not isinstance(rendered, tuple):
            raise TemplateRefused(rendered.error.message)
        _, (prompt,) = rendered
        ids = prompt["prompt_token_ids"]
        return Prompt(prompt.get("prompt") or self.decode(ids), ids)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the ids of ``text``; ``special``: with the special tokens that the tokenizer puts around a prompt."""
        return list(self.tokenizer.encode(text, add_special_tokens=special))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids`` with the special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def digest(renderer: OnlineRenderer) -> str:
    """Return the SHA-256 of what makes ``renderer``'s prompts: templates, their arguments, vocabulary and rules."""
    tokenizer = renderer.renderer.get_tokenizer()
    made_of = {
        "template": _template(renderer, None),
        "template_with_tools": _template(renderer, []),
        "content_format": renderer.chat_template_content_format,
        "arguments": renderer.default_chat_template_kwargs,
        "tokenizer": _rules(tokenizer),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()


def _template(renderer: OnlineRenderer, tools: list[dict[str, Any]] | None) -> str | None:
    """Return the chat template's text; None: the renderer has none, or writes prompts without one."""
    tokenizer, config = renderer.renderer.get_tokenizer(), renderer.model_config
    if not isinstance(renderer.renderer, HfRenderer):
        return None
    template: str | None = resolve_chat_template(tokenizer, renderer.chat_template, tools, model_config=config)
    return template


def _rules(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return str(sorted(tokenizer.get_vocab().items())) if backend is None else str(backend.to_str())


def _stop_ids(config: ModelConfig, eos: int | None) -> frozenset[int]:
    """Return the tokens on which the server stops: the tokenizer's own and those of the generation config."""
    more = config.try_get_generation_config().get("eos_token_id")
    stops = {eos, *(more if isinstance(more, list) else [more])}
    return frozenset(stop for stop in stops if stop is not None)
