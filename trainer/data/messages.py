"""Reads lists of messages: their content, and which answers are trained. Their order is the chat template's affair."""

from collections.abc import Mapping
from typing import Any, Final

from trainer.data.answer_weights import WEIGHT_KEYS, is_trained
from trainer.data.faults import FaultKind, LineFaults, WarningKind, shown
from trainer.data.json_text import json_list
from trainer.data.message_spellings import openai_message
from trainer.data.roles import ROLES
from trainer.data.tool_calls import Schemas, match_results, read_calls, read_id

_REASONING: Final = ("reasoning_content", "reasoning", "thinking")
_READ: Final = frozenset({"role", "content", "name", "tool_calls", *WEIGHT_KEYS})
_READ_OF: Final[Mapping[str, frozenset[str]]] = {
    "assistant": _READ.union(_REASONING),
    "tool": _READ | {"tool_call_id"},
}
MEDIA: Final = frozenset({"image", "images", "video", "videos", "audio", "audios"})
"""Keys whose content would be missing from the training text."""
_NO_TEXT: Final = MEDIA | {"image_url", "input_audio", "video_url", "audio_url", "file"}
"""Keys of a text part that make it more than text."""
_PARTS: Final[Mapping[str, str]] = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
"""Types of text parts (of chats, of responses), and the key of their text."""


def read_messages(
    value: Any, schemas: Schemas, where: str, faults: LineFaults, *, is_sharegpt: bool = False, first: int = 0
) -> tuple[list[dict[str, Any]], list[bool]]:
    """Return the messages as a request has them, and for each whether it is trained.

    Args:
        value: a list of messages, or one as JSON text.
        schemas: the declared tools.
        where: the place of the list in the row.
        faults: receives all faults; what is returned is valid only if there is none.
        is_sharegpt: whether roles may have ShareGPT's names.
        first: position of the first message in the row's list, for the places of faults.
    """
    listed = json_list(_rows_of(value, faults), where, faults)
    before = len(faults.found)
    read = [
        _message(item, schemas, (where, index), faults, is_sharegpt=is_sharegpt)
        for index, item in enumerate(listed, first)
    ]
    if len(faults.found) > before:
        return [], []
    return [message for message, _ in read], [trained for _, trained in read]


def _rows_of(value: Any, faults: LineFaults) -> Any:
    """Return messages for an object of lists, as `datasets` stores a sequence of objects; any other value as it is."""
    if not isinstance(value, dict) or not value or not all(isinstance(column, list) for column in value.values()):
        return value
    if value.keys().isdisjoint(("role", "from")) or len({len(column) for column in value.values()}) != 1:
        return value
    faults.warn(WarningKind.CONVERTED, "an object of lists is read as a list of messages")
    rows = [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    return [{key: cell for key, cell in row.items() if cell is not None} for row in rows]


def check_dialogue(messages: list[dict[str, Any]], where: str, faults: LineFaults) -> None:
    """Add faults of a whole dialogue: no message in it, or calls and results that do not belong together."""
    if faults:
        return
    if not messages:
        faults.add(FaultKind.NO_MESSAGES, where, "an empty list", "a user's message and an answer")
    match_results(messages, where, faults)


def _message(
    item: Any, schemas: Schemas, place: tuple[str, int], faults: LineFaults, *, is_sharegpt: bool
) -> tuple[dict[str, Any], bool]:
    where = f"{place[0]}[{place[1]}]"
    if faults.typed(item, dict, where) is None:
        return {}, False
    item = openai_message(item, where, faults, is_sharegpt=is_sharegpt)
    if "refusal" in item:
        _read_refusal(item, faults)
    if (role := faults.required(item, "role", str, where)) is None:
        return {}, False
    if role not in ROLES:
        faults.add(FaultKind.WRONG_ROLE, f"{where}.role", shown(role), f"one of {', '.join(ROLES)}")
        return {}, False
    trained = is_trained(item, where, faults)
    before = len(faults.found)
    called = item.get("tool_calls")
    calls = read_calls(called, schemas, f"{where}.tool_calls", faults) if called else []
    has_calls = bool(calls) or len(faults.found) > before
    if calls and role != "assistant":
        faults.add(FaultKind.BAD_CALL, f"{where}.tool_calls", f"calls of {role}", "calls of the assistant alone")
    message: dict[str, Any] = {"role": role}
    message["content"] = _content(item, f"{where}.content", faults, has_calls=has_calls, is_trained=trained)
    if item.get("name", "") != "" and faults.typed(item["name"], str, f"{where}.name") is not None:
        message["name"] = item["name"]
    if role == "tool" and (call_id := read_id(item.get("tool_call_id"), f"{where}.tool_call_id", faults)) is not None:
        message["tool_call_id"] = call_id
    if role == "assistant":
        _add_reasoning(message, item, where, faults)
        if calls:
            message["tool_calls"] = calls
    _check_keys(item, place, faults)
    return message, trained


def _read_refusal(item: dict[str, Any], faults: LineFaults) -> None:
    """Make the refusal of an answer without text its text, as the reader of the answer saw it."""
    refusal = item["refusal"]
    if item.get("role") == "assistant" and not item.get("content") and isinstance(refusal, str) and refusal.strip():
        faults.warn(WarningKind.CONVERTED, "a refusal is read as the text of its answer")
        item["content"] = item.pop("refusal")


def _content(
    item: Mapping[str, Any], where: str, faults: LineFaults, *, has_calls: bool, is_trained: bool
) -> str | None:
    """Return the text of a message, None for tool calls alone. Parts are joined with a newline, as vLLM does."""
    content, role, before = item.get("content"), item["role"], len(faults.found)
    if content is None and role != "assistant":
        faults.add(FaultKind.MISSING_KEY, where, "nothing", "a string")
    elif isinstance(content, list):
        content = "\n".join(_part(part, f"{where}[{index}]", faults) for index, part in enumerate(content))
    elif content is not None:
        faults.typed(content, str, where)
    if len(faults.found) > before:
        return None
    if not (content or "").strip():
        if role == "user":
            faults.add(FaultKind.EMPTY_PROMPT, where, "no text", "a text")
        elif role == "assistant" and not has_calls and is_trained:
            faults.add(FaultKind.EMPTY_ANSWER, where, "no text and no tool call", "an answer")
    return content or (None if has_calls else "")


def _part(part: Any, where: str, faults: LineFaults) -> str:
    if isinstance(part, str):
        return part
    key = _PARTS.get(str(part.get("type"))) if isinstance(part, dict) else None
    if key is not None and isinstance(text := part.get(key), str) and not any(part.get(other) for other in _NO_TEXT):
        return text
    faults.add(FaultKind.UNSUPPORTED_PART, where, shown(part), '{"type": "text", "text": ...}')
    return ""


def _add_reasoning(message: dict[str, Any], item: Mapping[str, Any], where: str, faults: LineFaults) -> None:
    """Add the reasoning, which has several names: that of most templates, of vLLM's answers, of gpt-oss's rows."""
    for key in _REASONING:
        if key not in item or faults.typed(item[key], str, f"{where}.{key}") is None or not item[key].strip():
            continue
        if message.setdefault("reasoning_content", item[key]) != item[key]:
            faults.add(FaultKind.REPEATED_KEY, f"{where}.{key}", "another reasoning", "one of the keys")
        elif key != _REASONING[0]:
            faults.warn(WarningKind.CONVERTED, f"{key} is read as {_REASONING[0]}")


def _check_keys(item: Mapping[str, Any], place: tuple[str, int], faults: LineFaults) -> None:
    """Warn of each further key that has a value; add a fault for one that training would have to show the model."""
    where, index = place
    known = _READ_OF.get(item["role"], _READ)
    if item.keys() <= known:
        return
    for key, value in item.items():
        if key in known or value in ("", [], {}):
            continue
        at = f"{where}[{index}].{key}"
        if key in MEDIA:
            faults.add(FaultKind.UNSUPPORTED_PART, at, shown(value), "text alone")
        elif key in ("tools", "functions"):
            faults.add(FaultKind.BAD_TOOL, at, shown(value), "the tools of all messages as the row's column `tools`")
        else:
            faults.warn(WarningKind.IGNORED_KEY, f"{where}[].{key[:80]} is ignored: training does not use it")
