"""Asks a server and notes when each token came: an open loop at the times that were drawn, or clients that wait.

Tokens are timed where the bytes of their event arrive at this process. It shares the machine with the server, so what
it takes is noted too: ``client_cpu`` is its share of one core, ``late_ms`` by how much an open loop sent late.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import aiohttp

from bench.workload import Ask

ROUTE: Final = "/v1/completions"
PATIENCE_S: Final = 600
EVENT: Final = b"data: "
DONE: Final = b"[DONE]"


@dataclass(frozen=True)
class StreamedAnswer:
    """What came of one request, in seconds from the start of the load.

    Attributes:
        ask: the request.
        sent_s: when it was sent.
        came_s: when each of its events with a token arrived; more than one token may share an event.
        tokens: how many the server counted.
        model: who answered, as the server says.
        text: what was said.
        failure: why it is incomplete; None: it is complete.
    """

    ask: Ask
    sent_s: float
    came_s: tuple[float, ...]
    tokens: int
    model: str
    text: str
    failure: str | None = None

    @property
    def first_ms(self) -> float:
        """Time to the first token."""
        return (self.came_s[0] - self.sent_s) * 1000

    @property
    def between_ms(self) -> list[float]:
        """Times from each event to the next."""
        return [(later - earlier) * 1000 for earlier, later in zip(self.came_s, self.came_s[1:], strict=False)]


@dataclass(frozen=True)
class LoadSpec:
    """All answers of a load, in the order of their requests.

    Attributes:
        answers: complete and failed ones.
        took_s: from the first request to the last token.
        client_cpu: processor time of this process ÷ ``took_s``.
        late_ms: by how much the latest request of an open loop was sent after its time.
    """

    answers: tuple[StreamedAnswer, ...]
    took_s: float
    client_cpu: float
    late_ms: float = 0.0

    @property
    def complete(self) -> list[StreamedAnswer]:
        """Those that came to their end."""
        return [answer for answer in self.answers if answer.failure is None]

    @property
    def tokens_per_s(self) -> float:
        """Tokens of complete answers in all, a second."""
        return sum(answer.tokens for answer in self.complete) / self.took_s

    @property
    def first_ms(self) -> list[float]:
        """Times to the first token."""
        return [answer.first_ms for answer in self.complete]

    @property
    def between_ms(self) -> list[float]:
        """Times between events."""
        return [gap for answer in self.complete for gap in answer.between_ms]


class LoadClient:
    """Connections to one server; an async context manager.

    Args:
        url: the server's root.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + ROUTE
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> LoadClient:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def open_loop(self, asks: Sequence[Ask]) -> LoadSpec:
        """Send each request at its time, whatever became of the others."""
        started, spent = time.perf_counter(), time.process_time()

        async def on_time(ask: Ask) -> StreamedAnswer:
            await asyncio.sleep(started + ask.at_s - time.perf_counter())
            return await self.ask(ask, started)

        answers = await asyncio.gather(*(on_time(ask) for ask in asks))
        late_ms = max((answer.sent_s - answer.ask.at_s) * 1000 for answer in answers)
        return replace(_load(answers, started, spent), late_ms=late_ms)

    async def closed_loop(self, asks: Iterable[Ask], concurrency: int) -> LoadSpec:
        """Let ``concurrency`` clients take the requests in order, each the next one when its last is answered."""
        started, spent = time.perf_counter(), time.process_time()
        answers: dict[int, StreamedAnswer] = {}
        waiting = iter(enumerate(asks))

        async def client() -> None:
            for number, ask in waiting:
                answers[number] = await self.ask(ask, started)

        await asyncio.gather(*(client() for _ in range(concurrency)))
        return _load([answers[number] for number in sorted(answers)], started, spent)

    async def ask(self, ask: Ask, started: float = 0.0) -> StreamedAnswer:
        """Have one answer streamed; ``started`` is the zero of its times, as ``time.perf_counter`` counts."""
        body = {
            "model": ask.model,
            "prompt": ask.prompt,
            "max_tokens": ask.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        sent_s = time.perf_counter() - started
        came_s: list[float] = []
        texts: list[str] = []
        model, tokens = "", 0
        try:
            async for event in self._events(body):
                model = event["model"]
                for choice in event["choices"]:
                    came_s.append(time.perf_counter() - started)
                    texts.append(choice["text"])
                if usage := event.get("usage"):
                    tokens = usage["completion_tokens"]
        except (aiohttp.ClientError, BrokenOff, TimeoutError) as failed:
            failure = f"{type(failed).__name__}: {failed}"
            return StreamedAnswer(ask, sent_s, tuple(came_s), tokens, model, "".join(texts), failure)
        short = None if tokens == ask.tokens else f"{tokens} tokens instead of {ask.tokens}"
        return StreamedAnswer(ask, sent_s, tuple(came_s), tokens, model, "".join(texts), short)

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        if self._session is None:
            raise RuntimeError("the client is not open")
        async with self._session.post(self._url, json=body) as response:
            if response.status != 200:
                raise BrokenOff(f"{response.status}: {(await response.text())[:500]}")
            async for line in response.content:
                if not line.startswith(EVENT) or line.startswith(EVENT + DONE):
                    continue
                event = json.loads(line[len(EVENT) :])
                if "error" in event:
                    raise BrokenOff(str(event["error"]))
                yield event


class BrokenOff(Exception):
    """The server refused, or said in the stream that it cannot go on."""


def _load(answers: Sequence[StreamedAnswer], started: float, spent: float) -> LoadSpec:
    took_s = time.perf_counter() - started
    return LoadSpec(tuple(answers), took_s, (time.process_time() - spent) / took_s)
