"""Reads JSON objects of every accepted format as rows of the internal form."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from trainer.data.faults import FaultKind, LineFaults, WarningKind, inside, shown
from trainer.data.messages import read_answer, read_messages
from trainer.data.rows import Conversation, Judged, Message, Preference, Row
from trainer.data.tools import read_tools
from trainer.row_formats import RowFormat


def read_row(value: Mapping[str, Any], form: RowFormat, faults: LineFaults) -> Row | None:
    """Return ``value``, a row of format ``form``, in the internal form; None, and its faults added, if it is faulty."""
    row = _READERS[form](value, faults)
    return None if faults else row


def _chat(value: Mapping[str, Any], faults: LineFaults) -> Row | None:
    chat = _conversation(value, "", faults)
    if chat is None or faults:
        return None
    _check_last(chat.messages, faults)
    if not faults and not any(chat.trained):
        needed = "at least one answer with weight 1"
        faults.add(FaultKind.NOTHING_TRAINED, "messages", "weight 0 on every answer", needed)
    return chat


def _prompt_completion(value: Mapping[str, Any], faults: LineFaults) -> Row | None:
    faults.check_keys(value, ("prompt", "completion"), "")
    return Conversation(_turn(value, "prompt", "completion", faults), (False, True))


def _alpaca(value: Mapping[str, Any], faults: LineFaults) -> Row | None:
    """Join the instruction, a blank line and the input, if there is one, to the user's message."""
    faults.check_keys(value, ("instruction", "input", "output"), "")
    user, answer = _turn(value, "instruction", "output", faults)
    if value.get("input") and faults.typed(value["input"], str, "input") is not None:
        user = {"role": "user", "content": f"{user['content']}\n\n{value['input']}"}
    return Conversation((user, answer), (False, True))


def _dpo(value: Mapping[str, Any], faults: LineFaults) -> Row | None:
    faults.check_keys(value, ("input", "preferred_output", "non_preferred_output"), "")
    asked = faults.required(value, "input", dict, "")
    outputs = [faults.required(value, key, list, "") for key in ("preferred_output", "non_preferred_output")]
    chat = None if asked is None or None in outputs else _conversation(asked, "input", faults)
    if chat is None:
        return None
    preferred = read_answer(outputs[0], chat.tools, "preferred_output", faults)
    rejected = read_answer(outputs[1], chat.tools, "non_preferred_output", faults)
    if faults:
        return None
    if (last := chat.messages[-1]["role"]) not in {"user", "tool"}:
        faults.add(FaultKind.ROLE_ORDER, "input.messages", f"{last} last", "user or tool last")
    if preferred == rejected:
        faults.add(FaultKind.SAME_ANSWERS, "non_preferred_output", "the preferred answer again", "a worse answer")
    return Preference(chat.messages, preferred, rejected, chat.tools)


def _kto(value: Mapping[str, Any], faults: LineFaults) -> Row | None:
    label = value.get("label")
    if type(label) is not bool:
        faults.add(FaultKind.BAD_LABEL, "label", shown(label), "true (a good answer) or false")
    if "messages" not in value:
        faults.check_keys(value, ("prompt", "completion", "label"), "")
        user, answer = _turn(value, "prompt", "completion", faults)
        return Judged((user,), answer, label is True)
    chat = _conversation(value, "", faults, "label")
    if chat is None or faults:
        return None
    _check_last(chat.messages, faults)
    return Judged(chat.messages[:-1], chat.messages[-1], label is True, chat.tools)


_READERS: Final[Mapping[RowFormat, Callable[[Mapping[str, Any], LineFaults], Row | None]]] = {
    RowFormat.CHAT: _chat,
    RowFormat.PROMPT_COMPLETION: _prompt_completion,
    RowFormat.ALPACA: _alpaca,
    RowFormat.DPO: _dpo,
    RowFormat.KTO: _kto,
}


def _conversation(value: Mapping[str, Any], where: str, faults: LineFaults, *more: str) -> Conversation | None:
    """Return the messages and tools of the object at ``where``, which may have the keys ``more`` too.

    None, and a fault added, if it has no list of messages. Valid only if no fault was added.
    """
    faults.check_keys(value, ("messages", "tools", "parallel_tool_calls", *more), where)
    if "parallel_tool_calls" in value:
        ignored = inside(where, "parallel_tool_calls")
        faults.warn(WarningKind.IGNORED_KEY, f"{ignored} is ignored in training: chat templates do not receive it")
    tools = read_tools(value["tools"], inside(where, "tools"), faults) if "tools" in value else ()
    listed = faults.required(value, "messages", list, where)
    if listed is None:
        return None
    return Conversation(*read_messages(listed, tools, inside(where, "messages"), faults), tools)


def _turn(value: Mapping[str, Any], asked: str, answered: str, faults: LineFaults) -> tuple[Message, Message]:
    user = _text(value, asked, FaultKind.EMPTY_PROMPT, faults)
    answer = _text(value, answered, FaultKind.EMPTY_ANSWER, faults)
    return {"role": "user", "content": user}, {"role": "assistant", "content": answer}


def _text(value: Mapping[str, Any], key: str, blank: FaultKind, faults: LineFaults) -> str:
    """Return the string at ``key``; a fault is added if it is missing, no string, or ``blank``."""
    text: str | None = faults.required(value, key, str, "")
    if text is not None and not text.strip():
        faults.add(blank, key, "no text", "some text")
    return text or ""


def _check_last(messages: tuple[Message, ...], faults: LineFaults) -> None:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        faults.add(FaultKind.NO_ANSWER, "messages", "no message of the assistant", "an answer to learn")
    elif roles[-1] != "assistant":
        faults.add(FaultKind.LAST_NOT_ASSISTANT, "messages", f"{roles[-1]} last", "the assistant's answer last")
