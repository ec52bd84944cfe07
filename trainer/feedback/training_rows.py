"""Training rows from feedback, in the formats of docs/training-files.md."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import combinations
from typing import Any, Final

from trainer.feedback.feedback import Feedback, FeedbackKind

Row = dict[str, Any]


class FeedbackFormat(StrEnum):
    """The method that rows are for."""

    SUPERVISED = "supervised"
    DPO = "dpo"
    KTO = "kto"
    RANKING = "ranking"


def training_rows(feedback: Feedback, form: FeedbackFormat) -> Iterator[Row]:
    """Yield the rows that ``feedback`` becomes; none where it says nothing of that kind."""
    yield from _MAKERS[form](feedback)


def _ranked(feedback: Feedback) -> Sequence[Mapping[str, Any]]:
    """Return the answers that are compared, the best first; of a correction it is the better one. None of a rating.

    Of equal answers the best one is left: training refuses a file in which an answer is better than itself.
    """
    messages = [answer.message for answer in feedback.answers]
    if feedback.kind is FeedbackKind.RATING:
        return []
    ranked = messages if feedback.correction is None else [feedback.correction, *messages]
    return [message for place, message in enumerate(ranked) if message not in ranked[:place]]


def _supervised(feedback: Feedback) -> Iterator[Row]:
    """The best answer, unless it was rated down."""
    if feedback.rating != "down":
        best = next(iter(_ranked(feedback)), feedback.answers[0].message)
        yield _chat(feedback, [*feedback.prompt, best])


def _dpo(feedback: Feedback) -> Iterator[Row]:
    """Each answer over each worse one."""
    for better, worse in combinations(_ranked(feedback), 2):
        asked = _chat(feedback, feedback.prompt)
        yield {"input": asked, "preferred_output": [better], "non_preferred_output": [worse]}


def _kto(feedback: Feedback) -> Iterator[Row]:
    """A rated answer by its rating, of compared ones the best as good and the last as bad."""
    ranked = _ranked(feedback)
    labelled = [(ranked[0], True), (ranked[-1], False)] if len(ranked) > 1 else []
    if feedback.kind is FeedbackKind.RATING:
        labelled = [(feedback.answers[0].message, feedback.rating == "up")]
    for message, label in labelled:
        yield {**_chat(feedback, [*feedback.prompt, message]), "label": label}


def _ranking(feedback: Feedback) -> Iterator[Row]:
    """All compared answers."""
    if len(ranked := _ranked(feedback)) > 1:
        yield {**_chat(feedback, feedback.prompt), "ranking": [_answer(message) for message in ranked]}


def _answer(message: Mapping[str, Any]) -> Any:
    """Return the text of a message that is nothing else, else the message."""
    is_text = message.keys() <= {"role", "content"} and isinstance(message.get("content"), str)
    return message["content"] if is_text else message


def _chat(feedback: Feedback, messages: Sequence[Any]) -> Row:
    return {"messages": [*messages], **({"tools": [*feedback.tools]} if feedback.tools else {})}


_MAKERS: Final[Mapping[FeedbackFormat, Callable[[Feedback], Iterator[Row]]]] = {
    FeedbackFormat.SUPERVISED: _supervised,
    FeedbackFormat.DPO: _dpo,
    FeedbackFormat.KTO: _kto,
    FeedbackFormat.RANKING: _ranking,
}
