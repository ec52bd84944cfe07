"""Reads the prompt that a distillation puts before each question."""

from collections.abc import Sequence
from typing import Any, Final

from trainer.data.faults import FaultKind, LineFaults
from trainer.data.messages import check_dialogue, read_messages
from trainer.data.rows import Message
from trainer.errors import InvalidField

PROMPT: Final = "method.distill.prompt"
"""Its place in a job."""
MAX_CHARACTERS: Final = 2**20
"""Of all messages together; the context of the base model is the other bound."""


def read_prompt(stated: str | Sequence[Any], where: str = PROMPT) -> list[Message]:
    """Return the messages of a prompt, as a request has them; a text alone is a system message.

    Raises:
        InvalidField: names every fault.
    """
    faults = LineFaults(1)
    listed = [{"role": "system", "content": stated}] if isinstance(stated, str) else list(stated)
    if not listed:
        faults.add(FaultKind.NO_MESSAGES, where, "an empty list", "the messages to distil")
    messages, _ = read_messages(listed, {}, where, faults)
    if messages:
        check_dialogue(messages, where, faults)
    for index, message in enumerate(messages):
        if not (message["content"] or "").strip() and not message.get("tool_calls"):
            faults.add(FaultKind.EMPTY_PROMPT, f"{where}[{index}].content", "no text", "a text")
    if (length := sum(len(message["content"] or "") for message in messages)) > MAX_CHARACTERS:
        faults.add(FaultKind.TOO_LARGE, where, f"{length} characters", f"at most {MAX_CHARACTERS}")
    if faults:
        message_text = "; ".join(f"{fault.where}: found {fault.found}; needed {fault.needed}" for fault in faults.found)
        raise InvalidField(message_text, param=where)
    return list(messages)
