"""A tiny base model, adapters for it, and servers around the shipped fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from safetensors.numpy import save
from starlette.types import ASGIApp, Message

from adapters.base_model import BaseModel
from adapters.checks.inspector import Inspector
from adapters.lora.canonical_form import canonical_config
from server.app import build_app
from server.composition import open_app
from server.engine.fake import FakeBuilder, FakeEngine
from server.gateway.gateway import Gateway
from server.settings import Settings
from server.state import AppState
from trainer.data.file_report import inspect_files
from trainer.job_preflight import Preflight
from trainer.options import AUTO
from trainer.run_spec import RunSpec

CHAT = "/v1/chat/completions"
HIDDEN = 16
BASE = BaseModel.from_shapes(
    "base",
    {"model_type": "llama"},
    {f"model.layers.0.self_attn.{name}": (HIDDEN, HIDDEN) for name in ("q_proj", "v_proj")},
)


@dataclass(frozen=True)
class AdapterFiles:
    """The two files of an adapter as bytes."""

    config: bytes
    weights: bytes

    def multipart(self) -> dict[str, tuple[str, bytes]]:
        return {
            "config": ("adapter_config.json", self.config),
            "weights": ("adapter_model.safetensors", self.weights),
        }

    def write(self, directory: Path) -> Path:
        directory.mkdir(parents=True)
        for name, content in self.multipart().values():
            (directory / name).write_bytes(content)
        return directory


class Caller:
    """One request to an ASGI app by a client that reads as slowly as the test wants, and may leave."""

    def __init__(self, app: ASGIApp, path: str, body: dict[str, Any]) -> None:
        self._body = json.dumps(body).encode()
        self._sent: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        self._gone = asyncio.Event()
        self._asked = False
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"host", b"test")],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }
        self._task = asyncio.ensure_future(app(scope, self._receive, self._sent.put))

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def message(self) -> Message:
        """Read the next message of the response."""
        return await self._sent.get()

    async def start(self) -> tuple[int, dict[str, str]]:
        """Read status and headers."""
        message = await self.message()
        return message["status"], {key.decode(): value.decode() for key, value in message["headers"]}

    async def rest(self) -> str:
        """Read the body to its end."""
        body = b""
        while True:
            message = await self.message()
            body += message.get("body", b"")
            if not message.get("more_body"):
                await self._task
                return body.decode()

    async def leave(self) -> None:
        """Close the connection; returns when the app is done with the request."""
        self._gone.set()
        while not self._task.done():
            with contextlib.suppress(asyncio.QueueEmpty):
                self._sent.get_nowait()
            await asyncio.sleep(0)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@dataclass
class Opened:
    """An open server, its app, and a client of it."""

    state: AppState
    app: Gateway
    client: httpx.AsyncClient
    builder: FakeBuilder
    make_adapter: Callable[..., AdapterFiles]
    callers: list[Caller] = field(default_factory=list)

    @property
    def engine(self) -> FakeEngine:
        """The engine that was started last."""
        return self.builder.engines[-1]

    @property
    def residents(self) -> dict[str, tuple[str, int]]:
        """Name → state and leases, least recently used first."""
        views = self.state.engine.running().residency.views()
        return {view.version.name: (str(view.state), view.leases) for view in views}

    async def publish(self, name: str, seed: int = 1, *, alias: str | None = None) -> dict[str, Any]:
        """Upload an adapter that the door admits; different bytes for each ``seed``."""
        params = {} if alias is None else {"alias": alias}
        files = self.make_adapter(seed).multipart()
        response = await self.client.post(f"/v1/adapters/{name}/versions", files=files, params=params)
        assert response.status_code == 201, response.text
        published: dict[str, Any] = response.json()
        return published

    async def publish_cold(self, name: str, seed: int = 1) -> None:
        """Upload as ``publish``, and unload what the alias's move made resident."""
        number = (await self.publish(name, seed))["version"]
        await self.client.post(f"/v1/adapters/{name}/versions/{number}/unload")

    async def chat(self, model: str, **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": "hello"}]
        return await self.client.post(CHAT, json={"model": model, "messages": messages, **body})

    async def answer(self, model: str) -> str:
        """Ask ``model`` and return who answered: the fake says its name."""
        response = await self.chat(model)
        assert response.status_code == 200, response.text
        said: str = response.json()["choices"][0]["message"]["content"]
        return said

    def call(self, model: str, *, words: int = 50) -> Caller:
        """Begin a streamed chat of ``words`` words, to be read at leisure."""
        caller = Caller(self.app, CHAT, {"model": model, "stream": True, "max_tokens": words})
        self.callers.append(caller)
        return caller

    async def until_ready(self) -> None:
        await until(lambda: self.state.engine.is_ready)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event announces."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


Opening = Callable[..., AbstractAsyncContextManager[Opened]]
Listening = Callable[[ASGIApp], AbstractAsyncContextManager[str]]
MakeAdapter = Callable[..., AdapterFiles]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture(name="until")
def until_() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    return until


@pytest.fixture(name="caller_of")
def caller_of_() -> type[Caller]:
    return Caller


@pytest.fixture
def base() -> BaseModel:
    return BASE


@pytest.fixture
def make_adapter() -> Callable[..., AdapterFiles]:
    """Makes an adapter for the tiny base, in canonical form; ``config`` replaces fields of its config."""

    def make(seed: int = 1, *, rank: int = 8, zero: bool = False, **config: Any) -> AdapterFiles:
        random = np.random.default_rng(seed)
        scale = 0.0 if zero else 0.02
        tensors = {
            f"base_model.model.{module}.lora_{side}.weight": random.normal(0, scale, shape).astype(np.float32)
            for module in BASE.modules
            for side, shape in (("A", (rank, HIDDEN)), ("B", (HIDDEN, rank)))
        }
        fields = canonical_config(rank, ["q_proj", "v_proj"], "base") | config
        text = json.dumps(fields, indent=2) + "\n"
        return AdapterFiles(text.encode(), save(tensors, {"format": "pt"}))

    return make


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def quick_preflight(spec: RunSpec) -> dict[str, Any]:
    """What the real one reports of a file's rows, without a tokenizer and a dry run: nobody trains here."""
    checked = inspect_files(spec.training_file, spec.validation_file, spec.method)
    training, validation = (None if report is None else report.to_json() for report in checked)
    numbers = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0, "beta": 0.1}
    said = {name: getattr(spec, name) for name in numbers if getattr(spec, name) != AUTO}
    return {
        "ok": all(report.ok for report in checked if report is not None),
        "training": training,
        "validation": validation,
        "renderer_sha256": "0" * 64,
        "hyperparameters": numbers | said,
        "estimate": {"fits": True, "steps": 9, "seconds": 1.0},
    }


@pytest.fixture(name="quick_preflight")
def quick_preflight_() -> Preflight:
    return quick_preflight


@pytest.fixture(scope="session")
async def inspector() -> AsyncIterator[Inspector]:
    """Looks at the uploads of all servers: starting a process for each would take longer than most tests."""
    async with aclosing(Inspector()) as shared:
        yield shared


@pytest.fixture
def opening(data_dir: Path, make_adapter: Callable[..., AdapterFiles], inspector: Inspector) -> Opening:
    """Opens a server with an app and a client; settings by keyword. Twice on the same data directory is a restart."""

    @asynccontextmanager
    async def opened(
        *,
        builder: FakeBuilder | None = None,
        bundled_adapters: Path | None = None,
        preflight: Preflight = quick_preflight,
        ready: bool = True,
        **settings: Any,
    ) -> AsyncIterator[Opened]:
        builder = builder or FakeBuilder(BASE)
        server_settings = Settings(
            **{
                "data_dir": data_dir,
                "engine_death_window_s": 0.001,
                "load_wait_s": 5.0,
                "worker": False,
                "probe_reference": "off",
                **settings,
            }
        )
        async with open_app(
            server_settings,
            builder,
            bundled_adapters=bundled_adapters,
            compiles=False,
            inspector=inspector,
            preflight=preflight,
        ) as state:
            app = build_app(state)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                opened = Opened(state, app, client, builder, make_adapter)
                try:
                    if ready:
                        await opened.until_ready()
                    yield opened
                finally:
                    for caller in opened.callers:
                        await caller.close()

    return opened


@pytest.fixture
async def opened(opening: Opening) -> AsyncIterator[Opened]:
    async with opening() as opened:
        yield opened


@pytest.fixture
def client(opened: Opened) -> httpx.AsyncClient:
    return opened.client


@pytest.fixture
def collectors() -> CollectorRegistry:
    return CollectorRegistry()


class _Server(uvicorn.Server):
    """Leaves the signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture
def listening() -> Callable[[ASGIApp], AbstractAsyncContextManager[str]]:
    """Serves an app over TCP on a free port; gives its URL."""

    @asynccontextmanager
    async def listen(app: ASGIApp) -> AsyncIterator[str]:
        config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        server = _Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            await until(lambda: server.started)
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await serving

    return listen
