"""Reads JSON objects of every accepted format as rows of the internal form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from trainer.data import fields
from trainer.data.faults import FaultKind, LineFaults, WarningKind, shown
from trainer.data.messages import read_answer, read_messages
from trainer.data.rows import Conversation, Judged, Message, Preference, Row, Tool
from trainer.data.tools import read_tools
from trainer.row_formats import RowFormat


def read_row(value: Mapping[str, Any], form: RowFormat, faults: LineFaults) -> Row | None:
    """Return ``value``, a row of format ``form``, in the internal form; None, and its faults added, if it is faulty."""
    row = _READERS[form](value, faults)
    return None if faults else row


def _chat(value: Mapping[str, Any], faults: LineFaults) -> Row | None:
    fields.only(value, ("messages", "tools", "parallel_tool_calls"), "", faults)
    tools = _tools(value, "", faults)
    if fields.required(value, "messages", list, "", faults) is None:
        return None
    messages, trained = read_messages(value["messages"], tools, "messages", faults)
    if faults:
        return None
    _check_last(messages, faults)
    if not faults and not any(trained):
        faults.add(
            FaultKind.NOTHING_TRAINED, "messages", "weight 0 on every answer", "at least one answer with weight 1"
        )
    return Conversation(messages, trained, tools)


def _prompt_completion(value: Mapping[str, Any], faults: LineFaults) -> Row | None:
    fields.only(value, ("prompt", "completion"), "", faults)
    messages = _turn(value, "prompt", "completion", faults)
    return Conversation(messages, (False, True))


def _alpaca(value: Mapping[str, Any], faults: LineFaults) -> Row | None:
    """Join the instruction, a blank line and the input, if there is one, to the user's message."""
    fields.only(value, ("instruction", "input", "output"), "", faults)
    user, answer = _turn(value, "instruction", "output", faults)
    if value.get("input") and fields.typed(value["input"], str, "input", faults) is not None:
        user = {"role": "user", "content": f"{user['content']}\n\n{value['input']}"}
    return Conversation((user, answer), (False, True))


def _dpo(value: Mapping[str, Any], faults: LineFaults) -> Row | None:
    fields.only(value, ("input", "preferred_output", "non_preferred_output"), "", faults)
    asked = fields.required(value, "input", dict, "", faults)
    outputs = [fields.required(value, key, list, "", faults) for key in ("preferred_output", "non_preferred_output")]
    if asked is None or None in outputs:
        return None
    fields.only(asked, ("messages", "tools", "parallel_tool_calls"), "input", faults)
    tools = _tools(asked, "input", faults)
    if fields.required(asked, "messages", list, "input", faults) is None:
        return None
    prompt, _ = read_messages(asked["messages"], tools, "input.messages", faults)
    preferred = read_answer(outputs[0], tools, "preferred_output", faults)
    rejected = read_answer(outputs[1], tools, "non_preferred_output", faults)
    if faults:
        return None
    if prompt[-1]["role"] not in {"user", "tool"}:
        faults.add(FaultKind.ROLE_ORDER, "input.messages", f"{prompt[-1]['role']} last", "user or tool last")
    if preferred == rejected:
        faults.add(FaultKind.SAME_ANSWERS, "non_preferred_output", "the preferred answer again", "a worse answer")
    return Preference(prompt, preferred, rejected, tools)


def _kto(value: Mapping[str, Any], faults: LineFaults) -> Row | None:
    label = value.get("label")
    if type(label) is not bool:
        faults.add(FaultKind.BAD_LABEL, "label", shown(label), "true (a good answer) or false")
    if "messages" not in value:
        fields.only(value, ("prompt", "completion", "label"), "", faults)
        user, answer = _turn(value, "prompt", "completion", faults)
        return Judged((user,), answer, label is True)
    fields.only(value, ("messages", "tools", "parallel_tool_calls", "label"), "", faults)
    tools = _tools(value, "", faults)
    messages, _ = read_messages(value["messages"], tools, "messages", faults)
    if faults:
        return None
    _check_last(messages, faults)
    return Judged(messages[:-1], messages[-1], label is True, tools)


_READERS: Final[Mapping[RowFormat, Callable[[Mapping[str, Any], LineFaults], Row | None]]] = {
    RowFormat.CHAT: _chat,
    RowFormat.PROMPT_COMPLETION: _prompt_completion,
    RowFormat.ALPACA: _alpaca,
    RowFormat.DPO: _dpo,
    RowFormat.KTO: _kto,
}


def _tools(value: Mapping[str, Any], where: str, faults: LineFaults) -> tuple[Tool, ...]:
    if "parallel_tool_calls" in value:
        ignored = fields.inside(where, "parallel_tool_calls")
        faults.warn(WarningKind.IGNORED_KEY, f"{ignored} is ignored in training: chat templates do not receive it")
    return read_tools(value["tools"], fields.inside(where, "tools"), faults) if "tools" in value else ()


def _turn(value: Mapping[str, Any], asked: str, answered: str, faults: LineFaults) -> tuple[Message, Message]:
    user = fields.text(value, asked, "", FaultKind.EMPTY_PROMPT, faults)
    answer = fields.text(value, answered, "", FaultKind.EMPTY_ANSWER, faults)
    return {"role": "user", "content": user or ""}, {"role": "assistant", "content": answer or ""}


def _check_last(messages: tuple[Message, ...], faults: LineFaults) -> None:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        faults.add(FaultKind.NO_ANSWER, "messages", "no message of the assistant", "an answer to learn")
    elif roles[-1] != "assistant":
        faults.add(FaultKind.LAST_NOT_ASSISTANT, "messages", f"{roles[-1]} last", "the assistant's answer last")
