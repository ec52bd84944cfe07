"""The outermost ASGI app: every request passes ``Gateway.__call__``; inference requests go on to ``_infer``.

authenticate → admit → [engine reads the body → hooks: resolve → make resident → await a turn → generate → meter]
→ set response headers
"""

from __future__ import annotations

import uuid
from time import perf_counter

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.errors import PatchbayError
from server.current_engine import CurrentEngine
from server.errors import RouteUnsupported
from server.gateway.admission import Admission
from server.gateway.authenticate import Authenticator
from server.gateway.inference_routes import INFERENCE_ROUTES, needs
from server.gateway.request_context import RequestContext
from server.gateway.request_hooks import RequestHooks
from server.http.errors import error_response, status_of

log = structlog.get_logger(__name__)

REQUEST_ID = "x-request-id"
_LONGEST_REQUEST_ID = 128


class Gateway:
    """ASGI app: inference goes to the engine, everything else to ``control``.

    Args:
        control: the app that answers everything but inference.
        gate: decides what ``model`` means while the engine serves.
        engine: the engine that runs now.
        authenticator, admission: the steps before the engine.
    """

    def __init__(
        self,
        *,
        control: ASGIApp,
        hooks: RequestHooks,
        engine: CurrentEngine,
        authenticator: Authenticator,
        admission: Admission,
    ) -> None:
        self._control = control
        self._hooks = hooks
        self._engine = engine
        self._authenticator = authenticator
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self._control(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get(REQUEST_ID, "")[:_LONGEST_REQUEST_ID] or uuid.uuid4().hex
        structlog.contextvars.bind_contextvars(request_id=request_id)
        response = _Response(send, request_id)
        path: str = scope["path"]
        started = perf_counter()
        try:
            self._authenticator.authenticate(scope["method"], path, headers)
            if path in INFERENCE_ROUTES and scope["method"] == "POST":
                await self._infer(scope, receive, response)
            else:
                await self._control(scope, receive, response.send)
        except PatchbayError as refusal:
            if response.status is not None:
                raise  # the response has started: the server closes the connection
            await error_response(refusal, path)(scope, receive, response.send)
        finally:
            response.log(scope["method"], path, perf_counter() - started)

    async def _infer(self, scope: Scope, receive: Receive, response: _Response) -> None:
        with self._hooks.request() as context:
            response.context = context
            try:
                with self._admission.admitted():
                    engine, path = self._engine.serving().engine, scope["path"]
                    if path not in engine.paths:
                        raise RouteUnsupported(f"the base model does not answer {path}; that takes {needs(path)}")
                    await engine.app(scope, receive, response.send_from_engine)
                if context.refusal is not None and response.status is None:
                    raise context.refusal
            except PatchbayError as refusal:
                context.status = response.status or status_of(refusal)  # the meter counts it at the end of the block
                raise


class _Response:
    """The response on its way out: gets headers that name the version, and drops the engine's once hooks refused."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.context: RequestContext | None = None
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        """Send ``message``, with headers that name the version that answers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.context is not None:
                self.context.status = self.status
            self._set_headers(MutableHeaders(scope=message))
        await self._send(message)

    async def send_from_engine(self, message: Message) -> None:
        """Send a message of the engine, unless hooks refused the request before a response started.

        The engine's wording of the refusal is dropped; the gateway answers with its own error.
        """
        if self.status is None and self.context is not None and self.context.refusal is not None:
            return
        await self.send(message)

    def log(self, method: str, path: str, took_s: float) -> None:
        """Log the request; its id is bound to the log's context already."""
        version = None if self.context is None else self.context.version
        log.info(
            "request",
            method=method,
            path=path,
            status=self.status,
            adapter=None if version is None else version.name,
            took_ms=round(took_s * 1000, 1),
        )

    def _set_headers(self, headers: MutableHeaders) -> None:
        headers[REQUEST_ID] = self._request_id
        lease = None if self.context is None else self.context.lease
        if lease is not None:
            version = lease.version
            headers["x-patchbay-adapter"] = version.name
            headers["x-patchbay-digest"] = version.digest
