"""Renders rows to token ids and a mask of trained tokens.

The mask comes from rendering twice: a prompt as the server renders it before an answer (with the generation prompt),
and the conversation up to that answer's end. The answer is the rest of the second beyond the first. Where a template
renders earlier turns differently once more turns follow (several drop thoughts), a row becomes one sequence for each
trained answer, each exactly the prompt and answer that the server would have had.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Self

from trainer.data.faults import FaultKind, LineFaults, WarningKind, shown
from trainer.data.rows import Conversation, Message, PlainText, Task, Tool
from trainer.data.tasks import with_prompt
from trainer.rendering.serving_renderer import Prompt, ServingRenderer, TemplateRefused
from trainer.rendering.token_rows import IGNORED

_THOUGHT: Final = re.compile(
    r"<(?P<xml>[\w:|-]*(?:think|thought|reason)[\w:|-]*)>|\[(?P<bracket>THINK)\]", re.IGNORECASE
)
"""The tag that opens a thought."""
_CLOSED_THOUGHT: Final = (
    "the server's prompt begins a thought that the template leaves out of answers: an answer trains behind it, "
    "closed empty or with the answer's reasoning"
)


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


class RowRenderer:
    """Renders rows with the renderer that serves, for training on sequences of at most ``most_tokens``.

    ``prompt``: of a distillation, the messages that its teacher has before each question.
    """

    def __init__(self, serving: ServingRenderer, most_tokens: int, prompt: Sequence[Message] = ()) -> None:
        self.serving = serving
        self.most_tokens = most_tokens
        self.prompt = tuple(prompt)

    def with_arguments(self, arguments: Mapping[str, Any]) -> Self:
        """Return this renderer for requests that state ``arguments`` as ``chat_template_kwargs``."""
        return type(self)(self.serving.with_arguments(arguments), self.most_tokens, self.prompt)

    def conversation(self, row: Conversation, faults: LineFaults) -> list[Rendered]:
        """Return the row as one sequence, or as one for each trained answer where the template rewrites earlier turns.

        Empty, and a fault added, where the server refuses the conversation. A sequence that is too long stands for the
        whole row: rendering every answer of a conversation takes time that is quadratic in its length.
        """
        answers = [index for index, trained in enumerate(row.trained) if trained][::-1]  # the longest prompt first
        try:
            whole = self.serving.prompt(row.messages, row.tools, asking=False)
            spans = list(self._spans(row, answers, whole))
        except TemplateRefused as refused:
            _add_refusal(refused, faults)
            return []
        if None in spans:
            return list(self._sequences(row, answers, faults))[::-1]
        trained = [False] * len(whole.ids)
        for start, end in filter(None, spans):
            trained[start:end] = [True] * (end - start)
        length = max(end for _, end in filter(None, spans))
        return [Rendered(whole.ids[:length], trained[:length])]

    def answer(
        self, prompt: Sequence[Message], answer: Message, tools: Sequence[Tool], faults: LineFaults
    ) -> Answered | None:
        """Return prompt and answer, each tokenised alone: the server also tokenises a prompt without what follows.

        None, and a fault added, where the server refuses the conversation or the answer is no continuation.
        """
        try:
            asked = self.serving.prompt(prompt, tools, asking=True)
            whole = self.serving.prompt([*prompt, answer], tools, asking=False)
            text = _continuation(asked.text, whole.text)
            if text is None:
                before = self.serving.prompt(prompt, tools, asking=False)
                text = _after_thought(before.text, asked.text, whole.text, answer)
                if text is not None:
                    faults.warn(WarningKind.CLOSED_THOUGHT, _CLOSED_THOUGHT)
        except TemplateRefused as refused:
            _add_refusal(refused, faults)
            return None
        if text is None:
            found = f"{shown(whole.text[-200:])} does not go on from {shown(asked.text[-80:])}"
            faults.add(FaultKind.TEMPLATE_REWRITES, "", found, "a template that keeps the prompt before an answer")
            return None
        ids = self.serving.encode(text)
        return Answered(asked.ids, ids[: self._end(ids)])

    def whole(
        self, messages: Sequence[Message], tools: Sequence[Tool], faults: LineFaults, *, asking: bool = False
    ) -> list[int] | None:
        """Return a conversation's ids, as the server has them for a request with these messages alone.

        None, and a fault added, where the server refuses the conversation. ``asking``: with the generation prompt.
        """
        try:
            return self.serving.prompt(messages, tools, asking=asking).ids
        except TemplateRefused as refused:
            _add_refusal(refused, faults)
            return None

    def taught(self, row: Task, faults: LineFaults) -> list[int] | None:
        """Return the ids of a question as the teacher gets it; None, and a fault added, where it is refused."""
        try:
            messages = with_prompt(self.prompt, row.prompt)
        except ValueError as twice:
            faults.add(FaultKind.SYSTEM_TWICE, "messages[0]", str(twice), "the instructions of both in one of them")
            return None
        ids = self.whole(messages, row.tools, faults, asking=True)
        if ids is not None and len(ids) >= self.serving.context:
            found, needed = f"{len(ids)} tokens with the prompt", f"fewer than {self.serving.context}, for an answer"
            faults.add(FaultKind.TOO_MANY_TOKENS, "", found, f"{needed}; or drop_long")
        return ids

    def text(self, row: PlainText) -> Answered:
        """Return a row without the chat template: its prompt as the server tokenises a prompt of /v1/completions.

        The answer is the completion and the end-of-sequence token.
        """
        asked, ids = self.serving.encode(row.prompt, special=True), self.serving.encode(row.completion)
        if asked == ids[:1]:  # the text itself begins with the token that the tokenizer puts before every text
            asked = []
        end = self.serving.tokenizer.eos_token_id
        return Answered(asked, ids if end is None or ids[-1:] == [end] else [*ids, end])

    def segments(self, rendered: Rendered) -> Iterator[tuple[str, bool]]:
        """Yield the text of each run of trained or untrained tokens, special tokens visible: the mask's preview."""
        for trained, run in groupby(zip(rendered.ids, rendered.trained, strict=True), key=lambda pair: pair[1]):
            yield self.serving.decode([token for token, _ in run]), trained

    def stops(self, ids: Sequence[int]) -> bool:
        """Whether a token that ends the server's generation is the last of ``ids``."""
        return bool(ids) and ids[-1] in self.serving.stop_ids

    def _sequences(self, row: Conversation, answers: Sequence[int], faults: LineFaults) -> Iterator[Rendered]:
        """Yield a sequence for each of the ``answers``, up to the first that is too long."""
        for index in answers:
            turn = self.answer(row.messages[:index], row.messages[index], row.tools, faults)
            if turn is not None:
                trained = [False] * len(turn.prompt) + [True] * len(turn.answer)
                yield Rendered(turn.prompt + turn.answer, trained)
                if len(trained) > self.most_tokens:
                    return

    def _spans(self, row: Conversation, answers: Sequence[int], whole: Prompt) -> Iterator[tuple[int, int] | None]:
        """Yield the spans of the ``answers``, up to the first that is None or ends too late."""
        for index in answers:
            span = self._span(row, index, whole)
            yield span
            if span is None or span[1] > self.most_tokens:
                return

    def _span(self, row: Conversation, index: int, whole: Prompt) -> tuple[int, int] | None:
        """Return the span of answer ``index`` in the ids of the ``whole`` row; None where the parts differ from it."""
        before = self.serving.prompt(row.messages[:index], row.tools, asking=True).ids
        is_last = index == len(row.messages) - 1
        through = whole if is_last else self.serving.prompt(row.messages[: index + 1], row.tools, asking=False)
        if whole.ids[: len(before)] != before or whole.ids[: len(through.ids)] != through.ids:
            return None
        return len(before), len(before) + self._end(through.ids[len(before) :])

    def _end(self, ids: list[int]) -> int:
        """Return the length of an answer up to its end-of-turn token; templates write a line end after it."""
        stops = [index for index, token in enumerate(ids) if token in self.serving.stop_ids]
        return stops[-1] + 1 if stops else len(ids)


def _add_refusal(refused: TemplateRefused, faults: LineFaults) -> None:
    faults.add(FaultKind.TEMPLATE_REFUSES, "", shown(str(refused)), "messages that the server's chat template takes")


def _continuation(asked: str, whole: str) -> str | None:
    return whole[len(asked) :] if whole.startswith(asked) else None


def _after_thought(before: str, asked: str, whole: str, answer: Message) -> str | None:
    """Return the text after a generation prompt with a thought that the template leaves out of the rendered answer.

    The generation prompt either opens the thought (``<think>``), which the answer's reasoning then fills and closes, or
    has an empty one already. None: it has no thought, or the rendered answer differs before it.
    """
    generation = _continuation(before, asked)
    opened = None if generation is None else _THOUGHT.search(generation)
    if generation is None or opened is None:
        return None
    rest = _continuation(asked[: len(before) + opened.start()], whole)
    closing = f"</{opened['xml']}>" if opened["xml"] else f"[/{opened['bracket']}]"
    if rest is None or closing in generation:
        return rest
    reasoning = answer.get("reasoning_content") or answer.get("reasoning") or ""
    return f"{reasoning}\n{closing}\n\n{rest}"
