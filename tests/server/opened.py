"""An open server around the shipped fake engine, with a client of it, and the types of tests' fixtures."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message

from adapters.base_model import BaseModel
from server.engine.fake import FakeBuilder, FakeEngine
from server.gateway.gateway import Deferred, Gateway
from server.state import AppState
from tests.until import until

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
            "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
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
    app: CORSMiddleware
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
        views = self.state.engine.running().residency.entries()
        return {view.version.name: (str(view.state), view.leases) for view in views}

    @property
    def deferred(self) -> Deferred:
        """The maker of apps whose requests act for a key."""
        gateway = self.app.app
        assert isinstance(gateway, Gateway)
        return gateway.deferred

    async def publish(self, name: str, seed: int = 1, *, alias: str | None = None) -> dict[str, Any]:
        """Upload an adapter that passes the checks; different bytes for each ``seed``."""
        params = {} if alias is None else {"alias": alias}
        files = self.make_adapter(seed).multipart()
        response = await self.client.post(f"/v1/adapters/{name}/versions", files=files, params=params)
        assert response.status_code == 201, response.text
        published: dict[str, Any] = response.json()
        return published

    async def limit(self, kind: str, account: str, **limits: Any) -> None:
        """Set the limits of a key or project."""
        response = await self.client.put(f"/v1/limits/{kind}/{account}", json=limits)
        assert response.status_code == 200, response.text

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
        content: str = response.json()["choices"][0]["message"]["content"]
        return content

    def call(self, model: str, *, words: int = 50) -> Caller:
        """Begin a streamed chat of ``words`` words, to be read at leisure."""
        caller = Caller(self.app, CHAT, {"model": model, "stream": True, "max_tokens": words})
        self.callers.append(caller)
        return caller

    async def until_ready(self) -> None:
        await until(lambda: self.state.engine.is_ready)


Opening = Callable[..., AbstractAsyncContextManager[Opened]]
MakeAdapter = Callable[..., AdapterFiles]
Listening = Callable[[ASGIApp], AbstractAsyncContextManager[str]]
