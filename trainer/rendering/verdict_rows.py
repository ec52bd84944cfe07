"""Chooses and renders the rows of a run's verdict, and puts examples from the training file before their prompts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Final

from trainer.data.faults import LineFaults
from trainer.data.file_report import normalised, prompt_digest, prompt_text
from trainer.data.rows import (
    Conversation,
    Judged,
    Message,
    PlainJudged,
    PlainPreference,
    PlainText,
    Preference,
    Ranking,
    Row,
    Task,
    Tool,
)
from trainer.data.training_file import read_file
from trainer.rendering.row_renderer import RowRenderer
from trainer.run_spec import RunSpec
from trainer.verdicts.judged_rows import MOST_TOKENS, JudgedRow, JudgedRows

SHOTS: Final = (2, 4, 8)
"""Numbers of examples that are tried."""
POOL: Final = 1000
"""Training rows that examples are taken from, at most."""
MOST_CHARACTERS: Final = 16 * MOST_TOKENS
"""Of a row that is kept: longer ones have too many tokens, and a thousand of them would not fit in memory."""
TRAINED: Final = 50
"""Training rows that are judged too, at most; never more than held-out ones."""


@dataclass(frozen=True, slots=True)
class _NumberedRow:
    line: int
    row: Row


@dataclass(frozen=True, slots=True)
class _Turn:
    """A question with its answer."""

    prompt: tuple[Message, ...]
    answer: Message
    tools: tuple[Tool, ...] = ()
    worse: Message | None = None

    @classmethod
    def of(cls, row: Row) -> _Turn | None:
        """Return the last trained turn of ``row``; None where it has none, or an answer that is not wanted."""
        match row:
            case Conversation():
                return cls(row.prompt, row.messages[len(row.prompt)], row.tools)
            case Preference():
                return cls(row.prompt, row.preferred, row.tools, row.rejected)
            case Judged():
                return cls(row.prompt, row.answer, row.tools) if row.good else None
        return None


def choose(spec: RunSpec, renderer: RowRenderer) -> JudgedRows:
    """Return the rows that the verdict on the run of ``spec`` is made of. No row is chosen by its answer.

    Raises:
        OSError: a file cannot be read.
    """
    assert spec.validation_file is not None
    draw = random.Random(f"verdict {spec.seed}")  # noqa: S311 - no secret depends on it
    seen: set[bytes] = set()
    pool = _Reservoir(POOL, draw)
    for line in read_file(spec.training_file, spec.method):
        if line.row is not None:
            seen.add(prompt_digest(line.row))
            if len(repr(line.row)) <= MOST_CHARACTERS:
                pool.add(_NumberedRow(line.number, line.row))
    rows = near_duplicates = too_long = 0
    chosen = _Reservoir(spec.verdict_rows, draw)
    for line in read_file(spec.validation_file, spec.method):
        if line.row is not None:
            rows += 1
            if prompt_digest(line.row) in seen:
                near_duplicates += 1
            elif len(repr(line.row)) > MOST_CHARACTERS:
                too_long += 1
            else:
                chosen.add(_NumberedRow(line.number, line.row))
    most = min(MOST_TOKENS, renderer.serving.context - 1)  # the engine writes a token more
    examples = _Examples(pool.shuffled(), renderer)
    rendered = [_rendered(each, renderer, examples, most) for each in chosen.shuffled()]
    held_out = [row for row in rendered if row is not None and row.tokens <= most]
    of_training = (_rendered(each, renderer, examples, most) for each in pool.shuffled())
    trained = _first(min(TRAINED, len(held_out)), (row for row in of_training if row and row.tokens <= most))
    too_long += sum(row is not None and row.tokens > most for row in rendered)
    return JudgedRows(held_out=held_out, trained=trained, rows=rows, near_duplicates=near_duplicates, too_long=too_long)


class _Reservoir:
    """Keeps ``most`` rows of a file, each with the same probability."""

    def __init__(self, most: int, draw: random.Random) -> None:
        self._most = most
        self._draw = draw
        self._kept: list[_NumberedRow] = []
        self._seen = 0

    def add(self, row: _NumberedRow) -> None:
        self._seen += 1
        if len(self._kept) < self._most:
            self._kept.append(row)
        elif (place := self._draw.randrange(self._seen)) < self._most:
            self._kept[place] = row

    def shuffled(self) -> Sequence[_NumberedRow]:
        """Return the rows in a random order, the same at every call."""
        in_order = sorted(self._kept, key=lambda row: row.line)
        random.Random(self._seen).shuffle(in_order)  # noqa: S311 - no secret depends on it
        return in_order


class _Examples:
    """The rows that may stand as examples before a prompt: those with the nearest questions are the best.

    Nearness is the weight of the tokens that two questions share, by their inverse frequency; that of a long question
    counts less.
    """

    def __init__(self, pool: Sequence[_NumberedRow], renderer: RowRenderer) -> None:
        self._renderer = renderer
        turns = [(_Turn.of(each.row), each) for each in pool]
        found = [
            (turn, self._tokens(each.row), each) for turn, each in turns if turn and turn.prompt and not turn.tools
        ]
        counts = Counter(token for _, tokens, _ in found for token in tokens)
        self._weights = {token: log(1 + len(found) / count) for token, count in counts.items()}
        self._known = [
            (turn, tokens, sqrt(self._weight(tokens)), prompt_digest(each.row), each.line)
            for turn, tokens, each in found
            if tokens
        ]

    def before(self, row: Row) -> list[_Turn]:
        """Return the nearest examples to ``row``, the nearest first; none with its own question."""
        asked, own = self._tokens(row), prompt_digest(row)
        others = [
            (self._weight(asked & tokens) / norm, -line, turn)
            for turn, tokens, norm, digest, line in self._known
            if digest != own
        ]
        others.sort(key=lambda each: each[:2], reverse=True)
        return [turn for *_, turn in others[: SHOTS[-1]]]

    def _tokens(self, row: Row) -> frozenset[int]:
        return frozenset(self._renderer.serving.encode(normalised(prompt_text(row))))

    def _weight(self, tokens: frozenset[int]) -> float:
        return sum(self._weights[token] for token in tokens)


def _rendered(each: _NumberedRow, renderer: RowRenderer, examples: _Examples, most: int) -> JudgedRow | None:
    """Return the row as token ids; None where it is not judged, or the server refuses it."""
    faults, row, line = LineFaults(each.line), each.row, each.line
    match row:
        case Ranking():
            best, worst = (renderer.whole((*row.prompt, row.answers[at]), row.tools, faults) for at in (0, -1))
            return None if best is None or worst is None else JudgedRow(line=line, answer=best, worse=worst)
        case Task():
            asked = renderer.whole(row.prompt, row.tools, faults, asking=True)
            return None if asked is None else JudgedRow(line=line, prompt=asked, item=dict(row.item))
        case PlainText() | PlainJudged():
            if isinstance(row, PlainJudged) and not row.good:
                return None
            text = renderer.text(PlainText(row.prompt, row.completion))
            item = {"prompt": row.prompt, "reference": row.completion}
            return _plain(JudgedRow(line=line, prompt=text.prompt, answer=text.answer, item=item))
        case PlainPreference():
            better, worse = (renderer.text(PlainText(row.prompt, text)) for text in (row.preferred, row.rejected))
            return _plain(JudgedRow(line=line, prompt=better.prompt, answer=better.answer, worse=worse.answer))
    turn = _Turn.of(row)
    if turn is None or (answered := renderer.answer(turn.prompt, turn.answer, turn.tools, faults)) is None:
        return None
    other = None if turn.worse is None else renderer.answer(turn.prompt, turn.worse, turn.tools, faults)
    if turn.worse is not None and other is None:
        return None
    return JudgedRow(
        line=line,
        prompt=answered.prompt,
        answer=answered.answer,
        worse=None if other is None else other.answer,
        shots=_shots(turn, renderer, examples.before(row), most - len(answered.answer)),
        item={"messages": list(turn.prompt), "reference": turn.answer.get("content") or ""},
    )


def _plain(row: JudgedRow) -> JudgedRow | None:
    """Return a row without template; None where nothing of its answer follows another token."""
    if row.prompt:
        return row
    first, *rest = row.answer
    return row.model_copy(update={"prompt": [first], "answer": rest}) if rest and row.worse is None else None


def _shots(turn: _Turn, renderer: RowRenderer, nearest: Sequence[_Turn], most: int) -> dict[int, list[int]]:
    """Return the prompts with examples, by their number; the nearest example last. What does not fit is left out."""
    prompts: dict[int, list[int]] = {}
    for number in SHOTS:
        if len(nearest) < number:
            break
        messages = _with_examples(turn.prompt, nearest[:number][::-1])
        ids = renderer.whole(messages, turn.tools, LineFaults(0), asking=True)
        if ids is None or len(ids) > most:
            break
        prompts[number] = ids
    return prompts


def _with_examples(prompt: Sequence[Message], examples: Sequence[_Turn]) -> list[Message]:
    """Return a conversation with each example as a turn of its own, behind the prompt's own system message."""
    system = 1 if prompt and prompt[0]["role"] in {"system", "developer"} else 0
    shown = [
        message
        for example in examples
        for message in (*example.prompt, example.answer)
        if message["role"] not in {"system", "developer"}
    ]
    return [*prompt[:system], *shown, *prompt[system:]]


def _first(most: int, rows: Iterator[JudgedRow]) -> list[JudgedRow]:
    return [row for row, _ in zip(rows, range(most), strict=False)]
