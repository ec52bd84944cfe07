"""Feedback on stored answers, and files of training rows made of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from server.access.caller import Caller
from server.http.schemas.feedback import ChoiceBody, ExportBody, FeedbackBody
from server.responses.answered_chat import AnsweredChat
from server.responses.response_store import COMPLETION, RESPONSE
from server.state import AppState
from trainer.errors import InvalidField
from trainer.feedback.feedback import Feedback, FeedbackDraft, RatedAnswer
from trainer.feedback.feedback_store import size_of
from trainer.feedback.training_rows import training_rows
from trainer.files.file import File, Purpose

_KINDS: Final = (COMPLETION, RESPONSE)


async def give_feedback(state: AppState, body: FeedbackBody, caller: Caller) -> Feedback:
    """Store feedback with the prompt and the answers that it names.

    Raises:
        ResponseNotFound: an answer is not stored.
        InvalidField: the answers are to different prompts, one is named twice, or one has no such choice.
        QuotaExceeded: the project has used its bytes.
    """
    answers: list[RatedAnswer] = []
    chats: list[AnsweredChat] = []
    for where, named in body.named.items():
        chat, answer = await _look_up(state, named, caller, where)
        if chats and (chat.prompt, chat.tools) != (chats[0].prompt, chats[0].tools):
            raise InvalidField(
                f"{where}: this answer is to another prompt than the others: compare answers to the same one",
                param=where,
            )
        if any((each.id, each.choice) == (answer.id, answer.choice) for each in answers):
            raise InvalidField(f"{where}: this answer is named twice", param=where)
        chats.append(chat)
        answers.append(answer)
    draft = FeedbackDraft(
        project=caller.project,
        kind=body.kind,
        prompt=chats[0].prompt,
        tools=chats[0].tools,
        answers=answers,
        rating=body.rating,
        correction=body.corrected,
        comment=body.comment,
        metadata=body.metadata,
    )
    await state.accounts.quotas.check_stored(caller.project, size_of(draft))
    return await state.records.feedback.add(draft, limit=state.settings.max_responses)


async def _look_up(state: AppState, named: ChoiceBody, caller: Caller, where: str) -> tuple[AnsweredChat, RatedAnswer]:
    stored = await state.responses.get(named.id, caller.project, _KINDS)
    try:
        chat = AnsweredChat.of(stored)
    except ValueError as strange:
        raise InvalidField(f"{where}: '{named.id}' has {strange}, which no training row has", param=where) from None
    except (LookupError, TypeError, AttributeError):  # items that the engine alone understands
        raise InvalidField(f"{where}: '{named.id}' is not a chat that training rows can have", param=where) from None
    if named.choice >= len(chat.answers):
        last = len(chat.answers) - 1
        raise InvalidField(f"{where}.choice: the last choice of '{named.id}' is {last}", param=f"{where}.choice")
    message = chat.answers[named.choice]
    if message.keys().isdisjoint({"content", "tool_calls"}):
        raise InvalidField(f"{where}: '{named.id}' has neither text nor calls", param=where)
    return chat, RatedAnswer(named.id, named.choice, str(stored.body["model"]), message)


async def export_feedback(state: AppState, body: ExportBody, caller: Caller) -> File:
    """Write the rows that the project's feedback becomes into a file for fine-tuning.

    Raises:
        InvalidField: there are no such rows.
        QuotaExceeded: the project has used its bytes.
    """
    since = body.since if body.since is None or body.since.tzinfo else body.since.replace(tzinfo=UTC)
    found = state.records.feedback.since(since, caller.project)
    lines = _lines(found, body, _is_of(body.adapter))
    first = await anext(lines, None)
    if first is None:
        raise InvalidField(
            f"no feedback of this project becomes a row for '{body.form}' with this `since` and `adapter`: "
            "GET /v1/feedback lists what there is",
            param="as",
        )
    await state.accounts.quotas.check_stored(caller.project, await state.records.feedback.stored_bytes(caller.project))
    name = f"feedback-{body.form}-{datetime.now(UTC):%Y%m%d-%H%M%S}.jsonl"
    return await state.records.files.create(Purpose.FINE_TUNE, name, _all(first, lines), project=caller.project)


async def _lines(
    found: AsyncIterator[Feedback], body: ExportBody, is_wanted: Callable[[Feedback], bool]
) -> AsyncIterator[bytes]:
    async for feedback in found:
        if is_wanted(feedback):
            for row in training_rows(feedback, body.form):
                yield _line(row)


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for line in rest:
        yield line


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _is_of(adapter: str | None) -> Callable[[Feedback], bool]:
    """Return a condition: an answer is of a version of ``adapter``; None: any answer."""
    if adapter is None:
        return lambda _: True
    return lambda feedback: any(answer.model.split("@")[0] == adapter for answer in feedback.answers)
