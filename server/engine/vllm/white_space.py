"""Limits the white space in structured output to one space between tokens, in vLLM's two backends for JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from server.engine.protocol import StartRefused

CHOSEN_BY_VLLM: Final = "auto"
GUIDANCE: Final = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""Options of llguidance within a schema; the separators are regular expressions."""


def limited_compiler(start: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return xgrammar's ``__post_init__`` with a compiler that allows one character of white space at once."""

    def start_limited(backend: Any) -> None:
        start(backend)
        if is_limited(backend):
            compile_schema = backend.compiler.compile_json_schema
            backend.compiler.compile_json_schema = partial(compile_schema, max_whitespace_cnt=1)
            compile_tag = backend.compiler.compile_structural_tag
            backend.compiler.compile_structural_tag = limited_tags(compile_tag)

    return start_limited


def limited_tags(compile_tag: Callable[[str], Any]) -> Callable[..., Any]:
    """Return xgrammar's ``compile_structural_tag`` with the same limit; vLLM makes calls of tools out of such tags."""

    def compile_limited(tag: Any, triggers: list[str] | None = None) -> Any:
        if triggers is not None:
            from xgrammar import StructuralTag

            tag = StructuralTag.from_legacy_structural_tag(tag, triggers).model_dump_json()
        return compile_tag(json.dumps(limited_tag(json.loads(tag))))

    return compile_limited


def limited_tag(part: Any) -> Any:
    """Return a part of a structural tag in which each JSON value that has no limit of its own has one."""
    if isinstance(part, list):
        return [limited_tag(each) for each in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "json_schema":  # whose XML styles have white space of their own
        is_free = part.get("style", "json") == "json" and part.get("max_whitespace_cnt") is None
        return {**part, "max_whitespace_cnt": 1} if is_free else part
    return {key: limited_tag(value) for key, value in part.items()}


def limited_schemas(compile_grammar: Callable[..., Any]) -> Callable[..., Any]:
    """Return llguidance's ``compile_grammar`` for schemas that say how they are written."""

    def compile_limited(backend: Any, request_type: Any, grammar_spec: str, *args: Any, **kwargs: Any) -> Any:
        from vllm.v1.structured_output.backend_types import StructuredOutputOptions

        if is_limited(backend) and request_type in {StructuredOutputOptions.JSON, StructuredOutputOptions.JSON_OBJECT}:
            is_any = request_type is StructuredOutputOptions.JSON_OBJECT
            schema = {"type": "object"} if is_any else json.loads(grammar_spec)
            if isinstance(schema, dict):
                grammar_spec = json.dumps({**schema, "x-guidance": {**GUIDANCE, **schema.get("x-guidance", {})}})
                request_type = StructuredOutputOptions.JSON
        return compile_grammar(backend, request_type, grammar_spec, *args, **kwargs)

    return compile_limited


def is_limited(backend: Any) -> bool:
    """Whether vLLM has chosen ``backend`` for a request, not the operator for all."""
    return bool(backend.vllm_config.structured_outputs_config.backend == CHOSEN_BY_VLLM)


def check_choice(backend: str, flags: str) -> None:
    """Refuse ``disable_any_whitespace`` without the name of a backend: there the limit of this module holds.

    Raises:
        StartRefused: names what to write.
    """
    if "disable_any_whitespace" in flags.replace("-", "_") and backend == CHOSEN_BY_VLLM:
        raise StartRefused(
            "--structured-outputs-config: disable_any_whitespace takes effect with a backend of its own; name one too, "
            'such as {"backend": "xgrammar", "disable_any_whitespace": false}'
        )
