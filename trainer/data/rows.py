"""The internal form of training rows, the same for every format.

Messages are as a request to the server has them (OpenAI's chat completions), with these keys and no others: ``role``,
``content`` (a string; None where an answer has tool calls alone), ``tool_calls`` (each with ``id``, ``type`` and
``function``, whose ``arguments`` are JSON text), ``tool_call_id``, ``name`` and ``reasoning_content``. Tools are a
request's ``tools``: ``{"type": "function", "function": {...}}``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat of which some answers are trained (method ``supervised``)."""

    messages: tuple[Message, ...]
    trained: tuple[bool, ...]
    """For each message, whether its tokens make loss. Only answers of the assistant do."""
    tools: tuple[Tool, ...] = ()

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last trained answer."""
        last = max(index for index, trained in enumerate(self.trained) if trained)
        return self.messages[:last]


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with a better and a worse answer (method ``dpo``)."""

    prompt: tuple[Message, ...]
    preferred: Message
    rejected: Message
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """A prompt with one answer, labelled good or bad (method ``kto``)."""

    prompt: tuple[Message, ...]
    answer: Message
    good: bool
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranking:
    """A prompt with several answers, the best first (method ``reward``)."""

    prompt: tuple[Message, ...]
    answers: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt whose answers the policy draws and a grader scores (method ``reinforcement``)."""

    prompt: tuple[Message, ...]
    item: Mapping[str, Any]
    """The row as it is written: graders read its columns."""
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text that is trained without the chat template (method ``supervised``)."""

    prompt: str
    """What comes before the trained text; often empty."""
    completion: str


@dataclass(frozen=True, slots=True)
class PlainPreference:
    """A text with a better and a worse continuation, trained without the chat template (method ``dpo``)."""

    prompt: str
    preferred: str
    rejected: str


@dataclass(frozen=True, slots=True)
class PlainJudged:
    """A text with one continuation, labelled good or bad, trained without the chat template (method ``kto``)."""

    prompt: str
    completion: str
    good: bool


Row = Conversation | Preference | Judged | Ranking | Task | PlainText | PlainPreference | PlainJudged
