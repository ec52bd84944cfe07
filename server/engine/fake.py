"""An engine without a model: speaks enough of the HTTP surface to test the server around it, and fails on command.

It answers each chat with the name of whatever serves it (``base`` or ``sql@7``), one word a token. Ships with the
product so that our tests and our users' tests share one fake; the contract suite holds it to what the real engine does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from adapters.base_model import BaseModel
from adapters.errors import PatchbayError
from server.engine.protocol import (
    ASGIApp,
    Batch,
    ComputedNaN,
    Demand,
    EngineGone,
    EngineHooks,
    EngineInfo,
    LoadFailed,
    Resident,
    ScoringUnsupported,
)

IDS = 2**31
"""vLLM's runner for GPUs keeps an adapter's id in 32 bits, and the engine dies of a larger one."""
DEATH_NOTE = {"error": {"message": "EngineCore died", "type": "server_error", "param": None, "code": 500}}


@dataclass(slots=True)
class Knobs:
    """How the fake misbehaves; change it while the engine runs."""

    start_s: float = 0.0
    load_s: float = 0.0
    token_s: float = 0.0
    is_refusing_loads: bool = False
    start_failures: int = 0
    """So many starts fail before one succeeds."""
    effect: float = -0.25
    """What an adapter adds to the base model's scores; 0: it is inert, NaN: arithmetic breaks down under it."""
    is_scoring: bool = True
    """False: a base model that generates no text."""


class FakeEngine:
    """A running fake; see ``Engine``. ``die()`` is its ``kill -9``."""

    slots = 4
    slot_bytes = 4096
    batch = Batch(sequences=128, tokens=2048)
    paths = frozenset({"/v1/chat/completions"})
    vocabulary = 1000

    def __init__(self, hooks: EngineHooks, knobs: Knobs, served_names: tuple[str, ...]) -> None:
        self._knobs = knobs
        self._residents: dict[int, Resident] = {}
        self._dead = asyncio.Event()
        self.loads: list[str] = []
        """Names in the order they were loaded, for assertions about single flight and eviction."""
        self._app = _chat_app(self, hooks, knobs, served_names)

    @property
    def app(self) -> ASGIApp:
        """One chat route."""
        return self._app

    @property
    def is_dead(self) -> bool:
        """True after ``die``."""
        return self._dead.is_set()

    def die(self) -> None:
        """Die at once: streams break off, loads fail."""
        self._dead.set()

    async def load(self, resident: Resident) -> None:
        """See ``Engine.load``."""
        await asyncio.sleep(self._knobs.load_s)
        if resident.id >= IDS:
            self.die()
        if self.is_dead:
            raise EngineGone("died while loading")
        if self._knobs.is_refusing_loads or not (resident.path / "adapter_config.json").is_file():
            raise LoadFailed(f"{resident.name} cannot be read")
        self.loads.append(resident.name)
        self._residents[resident.id] = resident

    async def unload(self, resident: Resident) -> None:
        """See ``Engine.unload``."""
        if self.is_dead:
            raise EngineGone("died while unloading")
        self._residents.pop(resident.id, None)

    async def loaded(self) -> frozenset[int]:
        """See ``Engine.loaded``."""
        return frozenset(self._residents)

    def encode(self, text: str) -> list[int]:
        """See ``Engine.encode``. A token a word."""
        return [len(word) for word in text.split()]

    async def score(self, resident: Resident | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``Engine.score``. The larger a token's id, the less likely it is."""
        if self.is_dead:
            raise EngineGone("died while scoring")
        if not self._knobs.is_scoring:
            raise ScoringUnsupported("the fake was told not to score")
        assert resident is None or resident.id in self._residents, f"{resident} is not loaded"
        effect = 0.0 if resident is None else self._knobs.effect
        return [[effect - token / self.vocabulary for token in prompt[1:]] for prompt in prompts]


@dataclass(slots=True)
class FakeBuilder:
    """Starts fakes for ``base``; keeps each in ``engines`` so that a test can reach the one that runs."""

    base: BaseModel
    served_names: tuple[str, ...] = ("base",)
    max_rank: int = 16
    directory: Path = Path()
    knobs: Knobs = field(default_factory=Knobs)
    engines: list[FakeEngine] = field(default_factory=list)

    async def info(self) -> EngineInfo:
        """See ``EngineBuilder.info``."""
        return EngineInfo(self.base, self.served_names, self.max_rank, self.directory)

    @asynccontextmanager
    async def start(self, hooks: EngineHooks) -> AsyncIterator[FakeEngine]:
        """See ``EngineBuilder.start``."""
        await asyncio.sleep(self.knobs.start_s)
        if self.knobs.start_failures:
            self.knobs.start_failures -= 1
            raise RuntimeError("the fake was told not to start")
        engine = FakeEngine(hooks, self.knobs, self.served_names)
        self.engines.append(engine)
        try:
            yield engine
        finally:
            engine.die()


def _chat_app(engine: FakeEngine, hooks: EngineHooks, knobs: Knobs, served_names: tuple[str, ...]) -> FastAPI:
    app = FastAPI(openapi_url=None)

    async def words(resident: Resident | None, count: int) -> AsyncIterator[str]:
        name = served_names[0] if resident is None else resident.name
        async with hooks.generation(resident, Demand(prompt_tokens=1, most_tokens=count)) as generation:
            generation.prompt_is_read()
            for number in range(count):
                await asyncio.sleep(knobs.token_s)
                if engine.is_dead:
                    raise EngineGone("died while generating")
                if resident is not None and isnan(knobs.effect):
                    raise ComputedNaN(name)
                generation.generated_tokens = number + 1
                yield name + " "

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        model, count = body.get("model") or served_names[0], body.get("max_tokens", 1)
        resident = None
        if model not in served_names:
            try:
                resident = await hooks.choose(model)
            except PatchbayError as refusal:
                return JSONResponse({"error": {"message": refusal.message}}, 400)
        if body.get("stream"):
            return StreamingResponse(_events(words(resident, count)), media_type="text/event-stream")
        try:
            text = "".join([word async for word in words(resident, count)])
        except (EngineGone, PatchbayError):  # the gateway words refusals its own way
            return JSONResponse(DEATH_NOTE, 500)
        message = {"role": "assistant", "content": text.strip()}
        answered = served_names[0] if resident is None else resident.name
        return JSONResponse({"model": answered, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    return app


async def _events(words: AsyncIterator[str]) -> AsyncIterator[str]:
    try:
        async for word in words:
            yield _event({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
    except (EngineGone, PatchbayError):  # as vLLM: whatever breaks a stream off is told in it
        yield _event(DEATH_NOTE)
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
