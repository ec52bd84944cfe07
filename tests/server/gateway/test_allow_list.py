"""vLLM mounts far more than inference; none of it is reachable."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.base_model import BaseModel
from server.engine.fake import FakeBuilder, FakeEngine
from server.engine.protocol import EngineHooks
from server.gateway.inference_routes import INFERENCE_ROUTES
from tests.server.opened import Opening

MOUNTED_BY_VLLM = [
    "/pause",
    "/resume",
    "/is_paused",
    "/invocations",
    "/load",
    "/server_info",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/update_weights",
    "/init_weight_transfer_engine",
    "/get_world_size",
    "/collective_rpc",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/reset_encoder_cache",
    "/start_profile",
    "/stop_profile",
    "/abort_requests",
    "/inference/v1/generate",
    "/generative_scoring",
    "/pooling",
    "/classify",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/v2/embed",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/realtime",
    "/v1/chat/completions/render",
    "/v1/completions/render",
    "/load_lora_adapter",
    "/unload_lora_adapter",
]
OTHER_SPELLINGS = [
    "/pause/",
    "//pause",
    "/v1/../pause",
    "/PAUSE",
    "/./pause",
    "/v1/messages/../../pause",
    "/v1/chat/completions/../../../pause",
    "/v1/load_lora_adapter/x",
    "/v1/chat/completions/x",
    "/v1/chat/completions/",
    "/v1/responses/resp_1",
    "/v1/responses/resp_1/cancel",
]


class Mounted:
    """An engine like vLLM: it answers every path and records which paths were requested."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.asked: list[str] = []
        self.paths = frozenset([*MOUNTED_BY_VLLM, *INFERENCE_ROUTES])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def app(self) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            self.asked.append(scope["path"])
            await JSONResponse({"reached": scope["path"]})(scope, receive, send)

        return answer


class MountingBuilder(FakeBuilder):
    @asynccontextmanager
    async def start(self, hooks: EngineHooks) -> AsyncIterator[Mounted]:
        async with super().start(hooks) as engine:
            self.engines[-1] = Mounted(engine)  # type: ignore[call-overload]
            yield self.engines[-1]


@pytest.mark.parametrize("path", MOUNTED_BY_VLLM + OTHER_SPELLINGS)
async def test_a_route_that_is_not_listed_never_reaches_the_engine(
    opening: Opening, base: BaseModel, path: str
) -> None:
    async with opening(builder=MountingBuilder(base)) as opened:
        for method in ("GET", "POST", "PUT", "DELETE"):
            status, _ = await raw(opened.app, method, path)
            assert status in {404, 405, 307}, (method, path)
        assert opened.engine.asked == []


async def test_the_listed_routes_reach_it_by_their_method_and_by_nothing_else(
    opening: Opening, base: BaseModel
) -> None:
    async with opening(builder=MountingBuilder(base)) as opened:
        for path, route in INFERENCE_ROUTES.items():
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
                status, body = await raw(opened.app, method, path)
                if path == "/v1/chat/completions/batch" and method != route.method:
                    assert status in {404, 405}  # read as the id of a stored completion, which there is not
                    continue
                assert status == (200 if method == route.method else 405)
                if status == 405 and method != "HEAD":
                    assert f"{path} takes {route.method}, not {method}" in json.loads(body)["error"]["message"]
        assert sorted(opened.engine.asked) == sorted(INFERENCE_ROUTES)


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("POST", "/pause", "load_inplace"),
        ("POST", "/resume", "load_inplace"),
        ("GET", "/server_info", "max_model_len"),
        ("POST", "/update_weights", "/v1/load_lora_adapter"),
        ("GET", "/load", "patchbay_requests_in_flight"),
        ("POST", "/invocations", "/v1/chat/completions"),
        ("GET", "/nowhere", "/docs"),
    ],
)
async def test_a_route_that_clients_of_vllm_ask_for_is_refused_with_what_to_use(
    opening: Opening, base: BaseModel, method: str, path: str, reason: str
) -> None:
    async with opening(builder=MountingBuilder(base)) as opened:
        status, body = await raw(opened.app, method, path)
        assert status == 404
        assert reason in json.loads(body)["error"]["message"]


async def test_the_schema_lists_the_routes_of_inference(opening: Opening) -> None:
    async with opening() as opened:
        paths = (await opened.client.get("/openapi.json")).json()["paths"]
        for path, route in INFERENCE_ROUTES.items():
            assert paths[path][route.method.lower()]["summary"] == route.summary


async def raw(app: ASGIApp, method: str, path: str) -> tuple[int, bytes]:
    """Call the app without a client that would tidy the path up."""
    sent: list[Any] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "server": ("test", 80),
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
