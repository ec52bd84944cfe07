"""An engine without a model, for tests of the server around it: enough of the HTTP routes, and failures on command.

It answers each chat with the name of the adapter or base model that serves it (``base``, ``sql@7``), a word a token.
It ships with the product, so that our tests and our users' tests share one fake. The contract suite runs against it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from math import isnan
from pathlib import Path
from time import time
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from adapters.base_model import BaseModel
from adapters.errors import PatchbayError
from server.engine.protocol import (
    AnswerReading,
    ASGIApp,
    Batch,
    ComputedNaN,
    Demand,
    EngineGone,
    EngineHooks,
    EngineInfo,
    LoadFailed,
    Resident,
    Sampled,
    ScoringUnsupported,
)

MAX_ID = 2**31
"""vLLM's runner for GPUs keeps an adapter's id in 32 bits, and the engine dies of a larger one."""
ENGINE_DIED = {"error": {"message": "EngineCore died", "type": "server_error", "param": None, "code": 500}}


@dataclass(slots=True)
class Knobs:
    """How the fake behaves and fails; may be changed while the engine runs."""

    start_s: float = 0.0
    load_s: float = 0.0
    token_s: float = 0.0
    is_stepped: bool = False
    """Each load and unload waits until the test calls ``FakeEngine.finish`` for it."""
    is_hanging: bool = False
    """The engine answers no ping."""
    is_refusing_loads: bool = False
    failing: frozenset[str] = frozenset()
    """Names of residents whose generations fail."""
    load_errors: dict[str, Exception] = field(default_factory=dict)
    """What the load of a resident raises, by the resident's name."""
    start_failures: int = 0
    """Number of starts that fail before one succeeds."""
    effect: float = -0.25
    """Added to the base model's scores by every adapter; 0: adapters are inert, NaN: the model computes NaN."""
    unserved_modules: frozenset[str] = frozenset()
    """Modules of the base model on which adapters have no effect."""
    takes_tools: bool = True
    """False: a base model whose tool calls no parser reads."""
    is_scoring: bool = True
    """False: a base model that generates no text."""


class FakeEngine:
    """A running fake; see ``Engine``. ``die()`` has the effect of ``kill -9``."""

    slots = 4
    slot_bytes = 4096
    batch = Batch(sequences=128, tokens=2048)
    paths = frozenset({"/v1/chat/completions"})
    renderer_sha256 = "0" * 64
    vocabulary = 1000
    context = 2048

    def __init__(self, hooks: EngineHooks, knobs: Knobs, served_names: tuple[str, ...]) -> None:
        self._knobs = knobs
        self.takes_tools = knobs.takes_tools
        self.is_dead = False
        self.unserved_modules = knobs.unserved_modules
        self.residents: dict[int, Resident] = {}
        """Loaded adapters by id."""
        self.loads: list[str] = []
        """Names in the order of the calls of ``load``, for assertions about single flight and eviction."""
        self.unloads: list[str] = []
        self.pending: dict[tuple[str, int], asyncio.Future[None]] = {}
        """Calls that wait for ``finish``, by ``"load"`` or ``"unload"`` and the resident's id."""
        self.app: ASGIApp = _chat_app(self, hooks, knobs, served_names)

    def die(self) -> None:
        """Die at once: streams break off, loads fail."""
        self.is_dead = True
        self.finish_all()

    def finish(self, call: str, number: int) -> None:
        """Let the pending ``call`` (``"load"`` or ``"unload"``) for the resident with id ``number`` go on."""
        self.pending[call, number].set_result(None)

    def finish_all(self) -> None:
        for call in self.pending.values():
            if not call.done():
                call.set_result(None)

    async def ping(self) -> None:
        if self._knobs.is_hanging:
            await asyncio.Event().wait()
        if self.is_dead:
            raise EngineGone("died before a ping")

    def kill(self) -> None:
        self.die()

    async def load(self, resident: Resident) -> None:
        assert resident.id not in self.residents, f"{resident.name} is loaded twice"
        self.loads.append(resident.name)
        await asyncio.sleep(self._knobs.load_s)
        if resident.id >= MAX_ID:
            self.die()
        await self._step("load", resident)
        if resident.name in self._knobs.load_errors:
            raise self._knobs.load_errors[resident.name]
        if self._knobs.is_refusing_loads or not (resident.path / "adapter_config.json").is_file():
            raise LoadFailed(f"{resident.name} cannot be read")
        self.residents[resident.id] = resident

    async def unload(self, resident: Resident) -> None:
        self.unloads.append(resident.name)
        await self._step("unload", resident)
        self.residents.pop(resident.id, None)

    async def _step(self, call: str, resident: Resident) -> None:
        if self._knobs.is_stepped and not self.is_dead:
            key = call, resident.id
            assert key not in self.pending, f"two calls of {call} for {resident.name} at once"
            self.pending[key] = asyncio.get_running_loop().create_future()
            try:
                await self.pending[key]
            finally:
                del self.pending[key]
        if self.is_dead:
            raise EngineGone(f"died during the {call} of {resident.name}")

    def check(self, name: str) -> None:
        """Raise the error with which generations of ``name`` end now, if any."""
        if self.is_dead:
            raise EngineGone("died while generating")
        if name in self._knobs.failing:
            raise RuntimeError(f"{name} is failing")

    def encode(self, text: str) -> list[int]:
        """Return one token for each word."""
        return [len(word) for word in text.split()]

    async def score(self, resident: Resident | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score: the larger a token's id, the less likely it is."""
        effect = self._effect(resident)
        return [[effect - token / self.vocabulary for token in prompt[1:]] for prompt in prompts]

    async def read(self, resident: Resident | None, prompt: Sequence[int], answer: Sequence[int]) -> AnswerReading:
        """Read: an answer is likelier after a prompt with its last token, and then the one that adapters write."""
        await asyncio.sleep(self._knobs.token_s)
        effect = self._effect(resident)
        is_near = answer[-1] in prompt
        logprob = len(answer) * (effect - answer[0] / self.vocabulary - (0.0 if is_near else 1.0))
        return AnswerReading(logprob, is_near and effect > 0)

    async def sample(
        self,
        resident: Resident | None,
        prompt: Sequence[int],
        *,
        samples: int,
        max_tokens: int,
        seed: int,
        temperature: float = 1.0,
    ) -> list[Sampled]:
        """Draw a token or two for each answer; the text is the name of the adapter, and the answer's number."""
        assert samples == 1 or temperature, "vLLM refuses several answers without chance"
        seed = seed if temperature else 0
        await asyncio.sleep(self._knobs.token_s)
        effect = self._effect(resident)
        name = "base" if resident is None else resident.name
        drawn = [_draw(f"{seed} {prompt} {number}") for number in range(samples)]
        return [
            Sampled(ids[:max_tokens], (effect - 1.0,) * len(ids[:max_tokens]), f"{name} answer {number}")
            for number, ids in enumerate(drawn)
        ]

    async def next_logprobs(
        self, resident: Resident | None, prompt: Sequence[int], tokens: Sequence[int]
    ) -> list[float]:
        effect = self._effect(resident)
        return [effect - token / self.vocabulary for token in tokens]

    def _effect(self, resident: Resident | None) -> float:
        """Return the effect of ``resident``, which has to be loaded, on the base model's log-probabilities."""
        if self.is_dead:
            raise EngineGone("died while computing")
        if not self._knobs.is_scoring:
            raise ScoringUnsupported("is_scoring is off")
        assert resident is None or resident.id in self.residents, f"{resident} is not loaded"
        return 0.0 if resident is None else self._knobs.effect


def _draw(seed: str) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(2, 9), k=2))  # noqa: S311 - no secret depends on it


@dataclass(slots=True)
class FakeBuilder:
    """Starts fakes for ``base`` and keeps each in ``engines``; the last one is the running one."""

    base: BaseModel
    served_names: tuple[str, ...] = ("base",)
    max_rank: int = 16
    directory: Path = Path()
    knobs: Knobs = field(default_factory=Knobs)
    engines: list[FakeEngine] = field(default_factory=list)

    async def info(self) -> EngineInfo:
        return EngineInfo(self.base, self.served_names, self.max_rank, self.directory)

    @asynccontextmanager
    async def start(self, hooks: EngineHooks) -> AsyncIterator[FakeEngine]:
        await asyncio.sleep(self.knobs.start_s)
        if self.knobs.start_failures:
            self.knobs.start_failures -= 1
            raise RuntimeError("start_failures is set")
        engine = FakeEngine(hooks, self.knobs, self.served_names)
        self.engines.append(engine)
        try:
            yield engine
        finally:
            engine.die()


def _chat_app(engine: FakeEngine, hooks: EngineHooks, knobs: Knobs, served_names: tuple[str, ...]) -> FastAPI:
    app = FastAPI(openapi_url=None)

    async def words(resident: Resident | None, name: str, count: int, form: object) -> AsyncIterator[str]:
        grammar = None if form is None else sha256(repr(form).encode()).hexdigest()
        demand = Demand(prompt_tokens=1, max_tokens=count, grammar=grammar)
        async with hooks.generation(resident, demand) as generation:
            generation.on_first_output()
            for number in range(count):
                await asyncio.sleep(knobs.token_s)
                engine.check(name)
                if resident is not None and isnan(knobs.effect):
                    raise ComputedNaN(name)
                generation.generated_tokens = number + 1
                yield name + " "

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body, resident = await request.json(), None
        try:
            hooks.prepare_body(request.url.path, body)
            model, count = body.get("model") or served_names[0], body.get("max_tokens", 1)
            if model not in served_names:
                resident = await hooks.resolve(model)
        except PatchbayError as refusal:
            return JSONResponse({"error": {"message": refusal.message}}, 400)
        name = served_names[0] if resident is None else resident.name
        answer = words(resident, name, count, body.get("response_format"))
        if body.get("stream"):
            return StreamingResponse(_events(answer, name), media_type="text/event-stream")
        try:
            text = "".join([word async for word in answer])
        except (EngineGone, PatchbayError, RuntimeError):  # the gateway sends a refusal of its own
            return JSONResponse(ENGINE_DIED, 500)
        message = {"role": "assistant", "content": text.strip()}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return JSONResponse({**_identity("chat.completion"), "model": name, "choices": choices})

    return app


def _identity(kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": int(time())}


async def _events(words: AsyncIterator[str], model: str) -> AsyncIterator[str]:
    identity = _identity("chat.completion.chunk")
    try:
        async for word in words:
            choices = [{"index": 0, "delta": {"content": word}, "finish_reason": None}]
            chunk = {**identity, "model": model, "choices": choices}
            yield f"data: {json.dumps(chunk)}\n\n"
    except (EngineGone, PatchbayError, RuntimeError):  # as vLLM: the last event has the error
        yield f"data: {json.dumps(ENGINE_DIED)}\n\n"
    yield "data: [DONE]\n\n"
