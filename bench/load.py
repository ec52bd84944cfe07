"""The load generator: sends requests over HTTP and notes when each token arrives.

An open loop sends each request at its drawn time; in a closed loop each client sends its next request when its last
answer is complete. A token's time is the arrival of its event's bytes in this process, which shares the machine with
the server. Its own cost is therefore part of the result: ``client_cpu`` is its share of one core, ``late_ms`` the
longest delay of an open loop's request.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Final

import aiohttp

from bench.workload import LoadRequest

ROUTE: Final = "/v1/completions"
CHAT: Final = "/v1/chat/completions"
PATIENCE_S: Final = 600
EVENT: Final = b"data: "
DONE: Final = b"[DONE]"


@dataclass(frozen=True)
class StreamedAnswer:
    """The answer to one request; times in seconds from the start of the load.

    Attributes:
        request: the request.
        sent_s: when the request was sent.
        arrived_s: when each event with a token arrived; an event may hold more than one token.
        tokens: number of tokens, as counted by the server.
        model: the model that answered, as named by the server.
        text: the text of the answer.
        failure: why the answer is incomplete; None where it is complete.
    """

    request: LoadRequest
    sent_s: float
    arrived_s: tuple[float, ...]
    tokens: int
    model: str
    text: str
    failure: str | None = None

    @property
    def first_ms(self) -> float:
        """Time to the first token."""
        return (self.arrived_s[0] - self.sent_s) * 1000

    @property
    def between_ms(self) -> list[float]:
        """Times between successive events."""
        return [(later - earlier) * 1000 for earlier, later in zip(self.arrived_s, self.arrived_s[1:], strict=False)]


@dataclass(frozen=True)
class LoadResult:
    """The answers of a load, in the order of their requests.

    Attributes:
        answers: complete and failed answers.
        took_s: seconds from the first request to the last token.
        client_cpu: processor time of this process ÷ ``took_s``.
        late_ms: the longest delay between a request's time and its sending, in an open loop.
    """

    answers: tuple[StreamedAnswer, ...]
    took_s: float
    client_cpu: float
    late_ms: float = 0.0

    @property
    def complete(self) -> list[StreamedAnswer]:
        """The answers without a failure."""
        return [answer for answer in self.answers if answer.failure is None]

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all complete answers per second."""
        return sum(answer.tokens for answer in self.complete) / self.took_s

    @property
    def first_ms(self) -> list[float]:
        """Times to the first token of the complete answers."""
        return [answer.first_ms for answer in self.complete]

    @property
    def between_ms(self) -> list[float]:
        """Times between events of the complete answers."""
        return [gap for answer in self.complete for gap in answer.between_ms]


class LoadClient:
    """Connections to one server; an async context manager.

    Args:
        url: the server's root.
        api_key: sent with each request; None: none is.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> LoadClient:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def open_loop(self, requests: Sequence[LoadRequest]) -> LoadResult:
        """Send each request at its time, however many answers are still open."""
        started, spent = time.perf_counter(), time.process_time()

        async def send_on_time(request: LoadRequest) -> StreamedAnswer:
            await asyncio.sleep(started + request.at_s - time.perf_counter())
            return await self.send(request, started)

        answers = await asyncio.gather(*map(send_on_time, requests))
        late_ms = max((answer.sent_s - answer.request.at_s) * 1000 for answer in answers)
        return replace(_result(answers, started, spent), late_ms=late_ms)

    async def closed_loop(
        self, requests: Iterable[LoadRequest], concurrency: int, is_over: Callable[[], bool] = lambda: False
    ) -> LoadResult:
        """Send the requests in order from ``concurrency`` clients, each waiting for its answer, until ``is_over``."""
        started, spent = time.perf_counter(), time.process_time()
        answers: dict[int, StreamedAnswer] = {}
        waiting = enumerate(takewhile(lambda _: not is_over(), requests))

        async def client() -> None:
            for number, request in waiting:
                answers[number] = await self.send(request, started)

        await asyncio.gather(*(client() for _ in range(concurrency)))
        return _result([answers[number] for number in sorted(answers)], started, spent)

    async def send(self, request: LoadRequest, started: float = 0.0) -> StreamedAnswer:
        """Return the streamed answer; its times count from ``started``, a value of ``time.perf_counter``."""
        sent_s = time.perf_counter() - started
        arrived_s: list[float] = []
        texts: list[str] = []
        model, tokens, failure = "", 0, None
        try:
            async for event in self._events(request):
                model = event["model"]
                for choice in event["choices"]:
                    text = choice["delta"].get("content") if request.chat else choice["text"]
                    if text or not request.chat:  # a chat begins with an event without a token
                        arrived_s.append(time.perf_counter() - started)
                        texts.append(text)
                if usage := event.get("usage"):
                    tokens = usage["completion_tokens"]
            if request.exact and tokens != request.tokens:
                failure = f"{tokens} tokens instead of {request.tokens}"
        except (aiohttp.ClientError, BrokenOff, TimeoutError) as failed:
            failure = f"{type(failed).__name__}: {failed}"
        return StreamedAnswer(request, sent_s, tuple(arrived_s), tokens, model, "".join(texts), failure)

    async def _events(self, request: LoadRequest) -> AsyncIterator[dict[str, Any]]:
        if self._session is None:
            raise RuntimeError("the client is not open")
        async with self._session.post(self._url + (CHAT if request.chat else ROUTE), json=_body(request)) as response:
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
    """The server refused the request, or sent an error in the stream."""


def _body(request: LoadRequest) -> dict[str, Any]:
    body = {
        "model": request.model,
        "max_tokens": request.tokens,
        "temperature": 0,
        "ignore_eos": request.exact,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if not request.chat:
        return {**body, "prompt": request.prompt}
    messages = [{"role": "user", "content": request.prompt}]
    return {**body, "messages": messages, "skip_special_tokens": not request.exact}  # each token of EOS has a text


def _result(answers: Sequence[StreamedAnswer], started: float, spent: float) -> LoadResult:
    took_s = time.perf_counter() - started
    return LoadResult(tuple(answers), took_s, (time.process_time() - spent) / took_s)
