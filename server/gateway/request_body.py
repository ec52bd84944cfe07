"""Rules for the body of an inference request, ahead of the engine's rules.

Fields with one meaning are made fit; fields without effect that say what the answer must be are refused.
"""

from collections.abc import Mapping
from math import inf
from typing import Any, Final, TypeGuard

from server.errors import InvalidRequest
from server.gateway.request_bounds import RequestBounds

RETIRED: Final[Mapping[str, str]] = {
    "guided_json": '`response_format` of type "json_schema", or `structured_outputs: {"json": …}`',
    "guided_regex": '`structured_outputs: {"regex": …}`',
    "guided_choice": '`structured_outputs: {"choice": […]}`',
    "guided_grammar": '`structured_outputs: {"grammar": …}`',
    "guided_decoding_backend": "the server's flag --structured-outputs-config",
    "guided_whitespace_pattern": "the server's flag --structured-outputs-config",
    "functions": "`tools`",
    "function_call": "`tool_choice`",
}
"""Fields that vLLM reads no more: today it would answer as if they were not there."""

OUTPUT_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
NAMED_BY_NONE: Final = frozenset({"/tokenize", "/detokenize"})
"""Routes that need no ``model``: all models of a server share the tokenizer."""
NO_TOOL_CHOICE: Final = frozenset({"auto", "none"})


def prepare_body(
    path: str, body: dict[str, Any], *, base: str, context: int, takes_tools: bool, bounds: RequestBounds
) -> None:
    """Make ``body`` fit for the engine, in place.

    An empty list of tools is as none. A limit on the output above the context is cut to the context; the engine cuts it
    to what the prompt leaves.

    Args:
        base: name of the base model.
        context: tokens of prompt and answer together that the engine can hold.
        takes_tools: whether the engine reads the tool calls of the base model.
        bounds: what the request may ask for at most.

    Raises:
        InvalidRequest: no ``model``, tools whose calls nothing reads, fields that are no longer read, more than is
            allowed; all at once.
    """
    retired = sorted(name for name in RETIRED.keys() & body.keys() if body[name] is not None)
    faults = {name: f"{name} is no longer read; use {RETIRED[name]}" for name in retired}
    if path not in NAMED_BY_NONE and body.get("model") in (None, ""):
        faults["model"] = f"model: say which model is to answer; the base model is '{base}', GET /v1/models lists all"
    if not takes_tools and body.get("tools") and _kind_of_choice(body.get("tool_choice")) != "none":
        faults["tools"] = (
            f"tools: no parser is known for the tool calls of the base model '{base}'; start the server with "
            "--enable-auto-tool-choice --tool-call-parser NAME (`patchbay serve --help-engine` lists the names)"
        )
    faults.update(bounds.faults(body))
    if faults:
        raise InvalidRequest("; ".join(faults.values()), param=next(iter(faults)))
    if body.get("tools", ...) in (None, []):
        del body["tools"]
    if "tools" not in body and _kind_of_choice(body.get("tool_choice")) in NO_TOOL_CHOICE:
        del body["tool_choice"]
    for field in OUTPUT_LIMITS:
        if _is_number(limit := body.get(field)) and context < limit < inf:
            body[field] = context


def end_user(body: Mapping[str, Any]) -> str | None:
    """Return the caller's user whom ``body`` names; None: it names none.

    OpenAI replaces ``user`` by ``safety_identifier``; Anthropic has ``metadata.user_id``.
    """
    metadata = body.get("metadata")
    named = body.get("safety_identifier") or body.get("user")
    if named is None and isinstance(metadata, dict):
        named = metadata.get("user_id")
    return named if isinstance(named, str) and named else None


def _kind_of_choice(choice: Any) -> Any:
    """Return ``auto`` of OpenAI's ``"auto"`` and of Anthropic's ``{"type": "auto"}``."""
    kind = choice.get("type") if isinstance(choice, dict) else choice
    return kind if isinstance(kind, str) else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
