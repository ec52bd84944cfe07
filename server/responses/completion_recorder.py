"""Stands before the engine's /v1/chat/completions: stores the answers to requests with ``store: true``.

The answer passes as it comes; what it holds is put together once it has ended, before its last message is sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.errors import StorageUnavailable
from server.responses.response_store import COMPLETION, MAX_BYTES, ResponseStore

log = structlog.get_logger(__name__)

PATH: Final = "/v1/chat/completions"

_STORED_FIELDS: Final = ("tools", "metadata")
"""Fields of the request that are stored with the answer, beside its messages."""
_LAST_EVENT: Final = re.compile(rb"^data: \[DONE\]\s*$", re.MULTILINE)
"""Alone on its line: an answer may have these words in its text."""
_CALL_TEXTS: Final = ("name", "arguments")


def wants_store(path: str, content: bytes) -> bool:
    """Whether a request may ask for its answer to be stored; cheap, because all requests are asked."""
    return path == PATH and b'"store"' in content


@dataclass(frozen=True, slots=True)
class CompletionRecorder:
    """Wraps the engine's app for requests of which ``wants_store`` is true."""

    store: ResponseStore

    async def __call__(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, content: bytes, project: str
    ) -> None:
        """Answer a request with the body ``content`` of ``project`` by ``app``."""
        request = _json_object(content)
        if request.get("store") is True and self.store.limit > 0:
            send = _RecordedCompletion(send, self.store, project, request).send
        await app(scope, receive, send)


@dataclass(slots=True, eq=False)
class _RecordedCompletion:
    """The answer on its way out."""

    to_client: Send
    store: ResponseStore
    project: str
    request: Mapping[str, Any]
    _is_stream: bool = False
    _is_answer: bool = False
    _body: bytearray = field(default_factory=bytearray)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = {name.lower(): value for name, value in message["headers"]}
            self._is_stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            self._is_answer = message["status"] == 200
        elif self._is_answer:
            body = message.get("body", b"")
            self._body += body
            is_last = _LAST_EVENT.search(body) is not None if self._is_stream else not message.get("more_body")
            is_too_long = len(self._body) > 2 * MAX_BYTES  # events repeat the facts of their answer
            if is_last or is_too_long:
                self._is_answer = False
                if is_too_long:  # what is stored is whole: it may be trained on
                    log.warning("chat completion not stored: it is too large")
                else:
                    await self._record()
                self._body.clear()
        await self.to_client(message)

    async def _record(self) -> None:
        body = bytes(self._body)
        completion = _assembled(_events(body)) if self._is_stream else _json_object(body)
        messages = self.request.get("messages")
        if completion.get("object") != COMPLETION or not isinstance(messages, list):
            return
        stated = {name: self.request[name] for name in _STORED_FIELDS if self.request.get(name)}
        try:
            if not await self.store.add(self.project, messages, {**completion, **stated}):
                log.warning("chat completion not stored: it is too large", completion=completion.get("id"))
        except StorageUnavailable as away:  # the answer is there all the same
            log.warning("chat completion not stored", completion=completion.get("id"), reason=away.message)


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a stream of events."""
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            yield _json_object(line.removeprefix(b"data: "))


def _assembled(chunks: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Return the completion that ``chunks`` are the parts of; empty if there is no part."""
    completion: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        completion = completion or {name: chunk.get(name) for name in ("id", "created", "model")}
        completion["usage"] = chunk.get("usage") or completion.get("usage")
        for part in chunk.get("choices") or ():
            message = {"role": "assistant", "content": None}
            choice = choices.setdefault(part["index"], {"index": part["index"], "message": message})
            choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
            _extend(choice["message"], part.get("delta") or {})
    if not completion:
        return {}
    return {**completion, "object": COMPLETION, "choices": [choices[index] for index in sorted(choices)]}


def _extend(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add a part of a message to it."""
    for name in ("content", "refusal"):
        if isinstance(text := delta.get(name), str):
            message[name] = (message.get(name) or "") + text
    for part in delta.get("tool_calls") or ():
        calls: list[dict[str, Any]] = message.setdefault("tool_calls", [])
        while len(calls) <= part["index"]:
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call = calls[part["index"]]
        call["id"] = part.get("id") or call["id"]
        for name in _CALL_TEXTS:
            call["function"][name] += (part.get("function") or {}).get(name) or ""


def _json_object(content: bytes) -> dict[str, Any]:
    """Return a JSON object; empty for other content: the engine refuses it in its own words."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
