"""Reads JSON objects of every accepted format as rows of the internal form."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from trainer.data.dialogues import PLAIN_READ, RowDialogue, check_columns, pop_dialogue, pop_prompt
from trainer.data.faults import FaultKind, LineFaults, WarningKind, shown
from trainer.data.json_text import json_value, messages_in
from trainer.data.messages import check_dialogue, read_messages
from trainer.data.preferences import read_openai_preference, read_preference, read_ranking
from trainer.data.rows import Conversation, Judged, PlainJudged, PlainText, Row
from trainer.data.tasks import read_question, read_task
from trainer.data.tools import pop_tools, schemas
from trainer.row_formats import ANSWERS, DIALOGUES, RowFormat, as_label, of_one_answer

_UNJUDGED: Final = "weight 0 on the answer that the label judges"


def read_row(value: Mapping[str, Any], form: RowFormat, faults: LineFaults) -> Row | None:
    """Return ``value``, a row of format ``form``, in the internal form; None, and its faults added, if it is faulty.

    A further column is a warning, unless the model would have to see it.
    """
    if form is RowFormat.TASK:
        return read_task(value, faults)
    columns = dict(value)  # each reader removes what it reads
    row = _READERS[form](columns, faults)
    check_columns(columns, "", faults)
    return None if faults else row


def _chat(columns: dict[str, Any], faults: LineFaults) -> Row | None:
    chat = pop_dialogue(columns, "", faults)
    if faults:
        return None
    answers = [index for index, message in enumerate(chat.messages) if message["role"] == "assistant"]
    if not answers:
        faults.add(FaultKind.NO_ANSWER, chat.where, "no message of the assistant", "an answer to learn")
    elif not any(chat.trained):
        needed = "at least one answer with weight 1"
        faults.add(FaultKind.NOTHING_TRAINED, chat.where, "weight 0 on every answer", needed)
    elif chat.trained[0]:
        _leave_out_greeting(chat, faults)
    if faults:
        return None
    if len(chat.messages) > (end := answers[-1] + 1):
        _check_last_answer(columns, chat, faults)
        faults.warn(WarningKind.LEFT_OUT, "messages behind the last answer are left out: they train nothing")
    return Conversation(tuple(chat.messages[:end]), tuple(chat.trained[:end]), chat.tools)


def _check_last_answer(columns: Mapping[str, Any], chat: RowDialogue, faults: LineFaults) -> None:
    """Add a fault for a column that may be the answer to the last message: it would be left out with that message."""
    for name in ANSWERS:
        if columns.get(name):
            found = f"an answer beside messages with {chat.messages[-1]['role']} last"
            faults.add(FaultKind.AMBIGUOUS_COLUMNS, name, found, "the answer as the last message, or no such column")


def _leave_out_greeting(chat: RowDialogue, faults: LineFaults) -> None:
    """Read an answer before all other messages as context: there is no request to which it would be the answer."""
    chat.trained[0] = False
    if any(chat.trained):
        faults.warn(WarningKind.LEFT_OUT, "an answer before all other messages is context: it is not trained")
    else:
        faults.add(FaultKind.ROLE_ORDER, f"{chat.where}[0].role", "an answer to nothing", "a message before it")


def _prompt_completion(columns: dict[str, Any], faults: LineFaults) -> Row | None:
    tools = pop_tools(columns, "", faults)
    if "completion" not in columns:
        faults.add(FaultKind.MISSING_KEY, "completion", "nothing", "a string or a list of messages")
        return None
    stated = columns.pop("completion")
    completion = messages_in(stated, "completion", faults)
    if isinstance(stated, str) and completion is not stated and _is_text(columns.get("prompt")):
        needed = "messages in the prompt too; or a list; or another text"
        faults.add(FaultKind.AMBIGUOUS_COLUMNS, "completion", "messages as text behind a prompt of text", needed)
    if isinstance(completion, str) and _is_plain(columns):
        return PlainText(_plain_prompt(columns, faults), _answer_text(completion, "completion", faults))
    prompt = pop_prompt(columns, ("prompt",), tools, faults)
    answers, trained = _completion(completion, schemas(tools), faults)
    if faults:
        return None
    messages = [*prompt, *answers]
    check_dialogue(messages, "completion", faults)
    if not any(trained):
        faults.add(FaultKind.NO_ANSWER, "completion", "no answer of the assistant", "an answer to learn")
    end = max((index for index, message in enumerate(messages, 1) if message["role"] == "assistant"), default=0)
    return Conversation(tuple(messages[:end]), (*(False for _ in prompt), *trained)[:end], tools)


def _completion(
    completion: Any, known: Mapping[str, Any], faults: LineFaults
) -> tuple[list[dict[str, Any]], list[bool]]:
    """Return the messages of a completion, and for each whether it is trained."""
    if isinstance(completion, str):
        return [{"role": "assistant", "content": _answer_text(completion, "completion", faults)}], [True]
    if not isinstance(completion, list):
        faults.add(FaultKind.WRONG_TYPE, "completion", shown(completion), "a string or a list of messages")
        return [], []
    return read_messages(completion, known, "completion", faults)


def _is_text(prompt: Any) -> bool:
    return isinstance(prompt, str) and bool(prompt.strip()) and json_value(prompt) is prompt


def _is_plain(columns: Mapping[str, Any]) -> bool:
    """Whether a row with a text to complete has no prompt that could be a user's message."""
    prompt = columns.get("prompt", "")
    return isinstance(prompt, str) and not prompt.strip() and not columns.get("system")


def _plain_prompt(columns: dict[str, Any], faults: LineFaults) -> str:
    """Remove the blank prompt of a plain text and return it."""
    faults.warn(WarningKind.PLAIN_TEXT, PLAIN_READ)
    return str(columns.pop("prompt", ""))


def _text(columns: dict[str, Any], faults: LineFaults) -> Row | None:
    faults.warn(WarningKind.PLAIN_TEXT, PLAIN_READ)
    if as_label(columns.get("label")) is not None:
        needed = "prompt and completion beside a label, for kto; or no label"
        faults.add(FaultKind.BAD_LABEL, "label", f"{shown(columns['label'])} beside a text alone", needed)
    text = faults.required(columns, "text", str, "")
    columns.pop("text", None)
    return PlainText("", _answer_text(text or "", "text", faults))


def _alpaca(columns: dict[str, Any], faults: LineFaults) -> Row | None:
    """Read the earlier turns in ``history`` as trained answers: so does LLaMA-Factory, whose column it is."""
    tools = pop_tools(columns, "", faults)
    answer = faults.required(columns, "output", str, "")
    columns.pop("output", None)
    prompt = pop_prompt(columns, ("instruction",), tools, faults)
    messages = [*prompt, {"role": "assistant", "content": _answer_text(answer or "", "output", faults)}]
    return Conversation(tuple(messages), tuple(message["role"] == "assistant" for message in messages), tools)


def _kto(columns: dict[str, Any], faults: LineFaults) -> Row | None:
    label = as_label(stated := columns.pop("label", None))
    if label is None:
        faults.add(FaultKind.BAD_LABEL, "label", shown(stated), "true (a good answer) or false")
    if not any(key in columns for key in DIALOGUES):
        return _judged_completion(columns, label is True, faults)
    chat = pop_dialogue(columns, "", faults)
    return None if faults else _judged(chat, label is True, faults)


def _judged_completion(columns: dict[str, Any], label: bool, faults: LineFaults) -> Row | None:  # noqa: FBT001
    is_alpaca = of_one_answer(columns) is RowFormat.ALPACA
    row = _alpaca(columns, faults) if is_alpaca else _prompt_completion(columns, faults)
    if isinstance(row, PlainText):
        return PlainJudged(row.prompt, row.completion, label)
    if faults or not isinstance(row, Conversation):
        return None
    if not row.trained[-1]:
        faults.add(FaultKind.NOTHING_TRAINED, "completion", _UNJUDGED, "a judged answer with weight 1")
    elif not is_alpaca and sum(row.trained) > 1:
        faults.add(FaultKind.NO_ANSWER, "completion", "several answers for one label", "one; the others in the prompt")
    return Judged(row.messages[:-1], row.messages[-1], label, row.tools)


def _judged(chat: RowDialogue, label: bool, faults: LineFaults) -> Row | None:  # noqa: FBT001
    *prompt, answer = chat.messages
    roles = [message["role"] for message in chat.messages]
    if "assistant" not in roles:
        faults.add(FaultKind.NO_ANSWER, chat.where, "no message of the assistant", "an answer to learn")
    elif roles[-1] != "assistant":
        faults.add(FaultKind.LAST_NOT_ASSISTANT, chat.where, f"{roles[-1]} last", "the assistant's answer last")
    elif not prompt:
        faults.add(FaultKind.ROLE_ORDER, f"{chat.where}[0].role", "an answer to nothing", "a message before it")
    elif not chat.trained[-1]:
        faults.add(FaultKind.NOTHING_TRAINED, chat.where, _UNJUDGED, "a judged answer with weight 1")
    return Judged(tuple(prompt), answer, label, chat.tools)


def _answer_text(text: str, where: str, faults: LineFaults) -> str:
    if not text.strip() and not any(fault.where == where for fault in faults.found):
        faults.add(FaultKind.EMPTY_ANSWER, where, "no text", "some text")
    return text


_READERS: Final[Mapping[RowFormat, Callable[[dict[str, Any], LineFaults], Row | None]]] = {
    RowFormat.CHAT: _chat,
    RowFormat.SHAREGPT: _chat,
    RowFormat.PROMPT_COMPLETION: _prompt_completion,
    RowFormat.ALPACA: _alpaca,
    RowFormat.TEXT: _text,
    RowFormat.DPO: read_openai_preference,
    RowFormat.PREFERENCE: read_preference,
    RowFormat.KTO: _kto,
    RowFormat.RANKING: read_ranking,
    RowFormat.QUESTION: read_question,
}
