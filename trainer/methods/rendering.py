"""Renders rows to token ids and a mask of trained tokens, with the tokenizer and chat template that serve.

The mask comes from rendering twice: a prompt as the server renders it before an answer (with the generation prompt),
and the conversation up to that answer's end. The answer is the rest of the second beyond the first. Where a template
renders earlier turns differently once more turns follow (several drop thoughts), a row becomes one sequence for each
trained answer, each exactly the prompt and answer that the server would have had.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import jinja2
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from trainer.data.faults import FaultKind, LineFaults, shown
from trainer.data.rows import Conversation, Message, PlainText, Tool
from trainer.methods.endings import BaseRefused

IGNORED: Final = -100
"""The label of a token that makes no loss (torch's own value)."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids, and for each whether it is trained. The last token is a trained one."""

    ids: list[int]
    trained: list[bool]

    @property
    def labels(self) -> list[int]:
        """The ids where trained, ``IGNORED`` elsewhere."""
        return [token if trained else IGNORED for token, trained in zip(self.ids, self.trained, strict=True)]


@dataclass(frozen=True, slots=True)
class Answered:
    """The ids of a prompt as the server renders it, and of the answer, with its end-of-turn token."""

    prompt: list[int]
    answer: list[int]


class Renderer:
    """The tokenizer and chat template in a base model's directory.

    Raises (when made):
        BaseRefused: there is no tokenizer or config that can be read, or no chat template.
    """

    def __init__(self, base: Path) -> None:
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
            config = AutoConfig.from_pretrained(base, local_files_only=True).get_text_config()
        except (OSError, ValueError) as error:
            raise BaseRefused(f"{base.name} cannot be read as a model: {shown(str(error))}") from error
        if self.tokenizer.chat_template is None:
            raise BaseRefused(f"the tokenizer of {base.name} has no chat template; training needs the one that serves")
        self.context: int = config.max_position_embeddings
        self.stop_ids = _stop_ids(base, self.tokenizer.eos_token_id)

    def conversation(self, row: Conversation, faults: LineFaults) -> list[Rendered]:
        """Return the row as one sequence, or as one for each trained answer where the template rewrites earlier turns.

        Empty, and a fault added, where the template refuses the row.
        """
        whole = self._text(row.messages, row.tools, faults)
        if whole is None:
            return []
        ids = self._ids(whole)
        spans = [self._span(row, index, ids, faults) for index, trained in enumerate(row.trained) if trained]
        if faults:
            return []
        if None in spans:
            return self._apart(row, faults)
        trained = [False] * len(ids)
        for start, end in filter(None, spans):
            trained[start:end] = [True] * (end - start)
        length = max(end for _, end in filter(None, spans))
        return [Rendered(ids[:length], trained[:length])]

    def answer(
        self, prompt: Sequence[Message], answer: Message, tools: Sequence[Tool], faults: LineFaults
    ) -> Answered | None:
        """Return prompt and answer, each tokenised alone: the server also tokenises a prompt without what follows."""
        asked = self._text(prompt, tools, faults, asking=True)
        whole = None if faults else self._text([*prompt, answer], tools, faults)
        if asked is None or whole is None:
            return None
        if not whole.startswith(asked):
            found = f"{shown(whole[-200:])} does not go on from it"
            faults.add(FaultKind.TEMPLATE_REWRITES, "", found, "a template that keeps the prompt before an answer")
            return None
        ids = self._ids(whole[len(asked) :])
        return Answered(self._ids(asked), ids[: self._end(ids)])

    def text(self, row: PlainText) -> Answered:
        """Return a row without the chat template: its prompt as the server tokenises a prompt of /v1/completions.

        The answer is the completion and the end-of-sequence token.
        """
        asked, ids, end = (
            self.tokenizer(row.prompt)["input_ids"],
            self._ids(row.completion),
            self.tokenizer.eos_token_id,
        )
        if asked == ids[:1]:  # the text itself begins with the token that the tokenizer puts before every text
            asked = []
        return Answered(asked, ids if end is None or ids[-1:] == [end] else [*ids, end])

    def segments(self, rendered: Rendered) -> Iterator[tuple[str, bool]]:
        """Yield the text of each run of trained or untrained tokens, special tokens visible: the mask's preview."""
        for trained, run in groupby(zip(rendered.ids, rendered.trained, strict=True), key=lambda pair: pair[1]):
            yield self.tokenizer.decode([token for token, _ in run], skip_special_tokens=False), trained

    def stops(self, ids: Sequence[int]) -> bool:
        """Whether a token that ends the server's generation is the last of ``ids``."""
        return bool(ids) and ids[-1] in self.stop_ids

    def _span(self, row: Conversation, index: int, ids: list[int], faults: LineFaults) -> tuple[int, int] | None:
        """Return the span of answer ``index`` in the whole row's ``ids``; None where the parts differ from them."""
        asked = self._text(row.messages[:index], row.tools, faults, asking=True)
        upto = None if faults else self._text(row.messages[: index + 1], row.tools, faults)
        if asked is None or upto is None:
            return None
        before, through = self._ids(asked), self._ids(upto)
        if ids[: len(before)] != before or ids[: len(through)] != through:
            return None
        return len(before), len(before) + self._end(through[len(before) :])

    def _apart(self, row: Conversation, faults: LineFaults) -> list[Rendered]:
        answers = [index for index, trained in enumerate(row.trained) if trained]
        turns = [self.answer(row.messages[:index], row.messages[index], row.tools, faults) for index in answers]
        return [
            Rendered(turn.prompt + turn.answer, [False] * len(turn.prompt) + [True] * len(turn.answer))
            for turn in filter(None, turns)
        ]

    def _end(self, ids: list[int]) -> int:
        """Return the length of an answer up to its end-of-turn token; templates write a line end after it."""
        stops = [index for index, token in enumerate(ids) if token in self.stop_ids]
        return stops[-1] + 1 if stops else len(ids)

    def _text(
        self, messages: Sequence[Message], tools: Sequence[Tool], faults: LineFaults, *, asking: bool = False
    ) -> str | None:
        try:
            text: str = self.tokenizer.apply_chat_template(
                [_as_template_message(message) for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                tokenize=False,
                add_generation_prompt=asking,
            )
        except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # any error that a template's code may raise
            found = f"{type(error).__name__}: {shown(str(error))}"
            faults.add(FaultKind.TEMPLATE_REFUSES, "", found, "messages that the base's chat template takes")
            return None
        return text

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]  # the template wrote them all
        return ids

    @property
    def sha256(self) -> str:
        """Return the digest of the chat template, the vocabulary and the tokenizer's rules."""
        rules = self.tokenizer.backend_tokenizer.to_str()
        return hashlib.sha256(f"{self.tokenizer.chat_template}\0{rules}".encode()).hexdigest()


def _as_template_message(message: Message) -> dict[str, Any]:
    """Return a request's message as the server passes it to the chat template: arguments of calls as objects."""
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "content": message["content"] or "", **({"tool_calls": calls} if calls else {})}


def _stop_ids(base: Path, eos: int | None) -> frozenset[int]:
    """Return the tokens on which the server stops: the tokenizer's own and those of ``generation_config.json``."""
    stops: set[int | None] = {eos}
    if (base / "generation_config.json").exists():
        more = GenerationConfig.from_pretrained(base, local_files_only=True).eos_token_id
        stops |= set(more) if isinstance(more, list) else {more}
    return frozenset(stop for stop in stops if stop is not None)
