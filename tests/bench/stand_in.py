"""A small HTTP server that answers as vLLM does, so that the client's notes can be compared with what was sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.load import CHAT, ROUTE


@dataclass
class StandIn:
    """The server; ``bodies`` are those of its requests, in order.

    The model ``unknown`` is refused, ``broken`` gets an error in its stream, ``short`` lacks a token.
    """

    bodies: list[dict[str, Any]] = field(default_factory=list)
    pause_s: float = 0.0
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if body["model"] == "unknown":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if is_chat := request.path == CHAT:
            await self._send(response, body["model"], [{"index": 0, "delta": {"role": "assistant", "content": ""}}])
        tokens = body["max_tokens"] - (body["model"] == "short")
        for number in range(tokens):
            await asyncio.sleep(self.pause_s)
            text = {"delta": {"content": f"{number} "}} if is_chat else {"text": f"{number} "}
            await self._send(response, body["model"], [{"index": 0, **text}])
            if body["model"] == "broken":
                await response.write(b'data: {"error": {"message": "engine died"}}\n\n')
                break
        await self._send(response, body["model"], [], usage={"completion_tokens": tokens})
        await response.write(b"data: [DONE]\n\n")
        self.at_once -= 1
        return response

    async def _send(self, response: web.StreamResponse, model: str, choices: list[Any], **rest: Any) -> None:
        event = json.dumps({"model": f"{model}@1", "choices": choices, **rest})
        await response.write(f"data: {event}\n\n".encode())


@asynccontextmanager
async def run_stand_in() -> AsyncIterator[StandIn]:
    stand_in = StandIn()
    app = web.Application()
    app.router.add_post(ROUTE, stand_in.answer)
    app.router.add_post(CHAT, stand_in.answer)
    async with TestServer(app) as server:
        stand_in.url = str(server.make_url(""))
        yield stand_in
