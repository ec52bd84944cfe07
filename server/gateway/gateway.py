"""The outermost ASGI app: every request passes ``Gateway.__call__``; inference requests go on to ``_infer``.

authenticate → read the body → admit → [engine parses it → hooks: resolve → make resident → await a turn → generate
→ meter] → set response headers
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.errors import PatchbayError
from server.access.caller import Caller, caller_of, set_caller
from server.access.key_ring import KeyRing
from server.accounts.audited import READ_BY_POST
from server.current_engine import CurrentEngine
from server.errors import RequestTimeout, RouteUnsupported
from server.gateway.admission import Admission
from server.gateway.authenticate import authenticate, authorize
from server.gateway.browser_rules import BrowserRules
from server.gateway.inference_routes import INFERENCE_ROUTES, needs
from server.gateway.request_hooks import RequestContext, RequestHooks
from server.gateway.route_scopes import OPEN
from server.http.body_reader import NO_BODY, BodyReader
from server.http.errors import error_response, status_of
from server.logs import ACCESS
from server.replayed_body import replayed
from server.responses import recorder
from server.responses.completion_recorder import CompletionRecorder, wants_store
from server.responses.recorder import ResponseRecorder
from server.rollouts.traffic import Trial

if TYPE_CHECKING:
    from server.access.token_issuer import TokenIssuer

access_log = structlog.get_logger(ACCESS)

REQUEST_ID = "x-request-id"
ADAPTER = "x-patchbay-adapter"
DIGEST = "x-patchbay-digest"
SIDE = "x-patchbay-rollout"
"""Header with the side that answers behind an alias with a rollout: ``current`` or ``candidate``."""
_KEY_ID = "patchbay.key_id"
"""Entry of the ASGI scope, set by ``Gateway.deferred`` alone: the id of the key that a line of a batch acts for."""
IS_DEFERRED = "patchbay.is_deferred"
"""Entry of the ASGI scope, set by ``Gateway.deferred`` alone: the request is a line of a batch."""
_UNCOUNTED: Final = READ_BY_POST - {"/v1/adapters/diff"}
"""Routes that take POST and change nothing; a comparison of versions costs as much as a write, and counts as one."""
_LONGEST_REQUEST_ID = 128
LAST_EVENT_S: Final = 5.0
"""Seconds for which the last event of a stream that was given up waits for its reader."""
Deferred = Callable[[str | None], ASGIApp]
"""Returns an app for the key with an id (None: the server had no keys), whose requests wait behind all others."""
NO_ROUTES: Final[ASGIApp] = PlainTextResponse("no such route", 404)
"""Answers the paths that are no inference, for a gateway without control routes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """ASGI app: inference goes to the engine, everything else to ``control``."""

    hooks: RequestHooks
    engine: CurrentEngine
    keys: KeyRing
    admission: Admission
    bodies: BodyReader
    responses: ResponseRecorder
    issuer: TokenIssuer | None = None
    """Issuer of the bearer tokens that are taken beside API keys; None: none are."""
    browsers: BrowserRules = field(default_factory=BrowserRules)
    control: ASGIApp = NO_ROUTES
    timeout_s: float | None = None
    """Seconds from a request to the end of its answer, at most; None: no bound."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.control(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get(REQUEST_ID, "")[:_LONGEST_REQUEST_ID] or uuid.uuid4().hex
        structlog.contextvars.bind_contextvars(request_id=request_id)
        response = _Response(send, request_id)
        path: str = scope["path"]
        started = perf_counter()
        try:
            if IS_DEFERRED in scope:
                caller = authorize(self.keys, scope[_KEY_ID], scope["method"], path)
            else:
                if self.keys.is_open and path not in OPEN:
                    self.browsers.check(scope["method"], headers)
                caller = await authenticate(self.keys, self.issuer, scope["method"], path, headers)
            set_caller(scope, caller)
            response.key_id = caller.key_id
            inference = INFERENCE_ROUTES.get(path)
            is_inference = inference is not None and inference.method == scope["method"]
            is_write = not is_inference and scope["method"] not in NO_BODY and path not in _UNCOUNTED
            sender = _sender(caller, scope)
            with self.admission.writing(sender) if is_write else nullcontext():
                async with self.bodies.read(scope["method"], path, headers, receive, sender=sender) as body:
                    if is_inference:
                        await self._infer(scope, body, response)
                    else:
                        await self.control(scope, body, response.send)
        except PatchbayError as refusal:
            if response.is_stream:
                await response.end_stream(error_response(refusal, path))
                return
            if response.status is not None:
                raise  # the response has started: the server closes the connection
            await error_response(refusal, path)(scope, receive, response.send)
        finally:
            if IS_DEFERRED not in scope:
                response.log(scope["method"], path, perf_counter() - started)

    def deferred(self, key_id: str | None) -> ASGIApp:
        """Return an app for lines of a batch: they act for the key with this id, and wait behind other requests.

        ``key_id`` None: the batch was created while the server had no keys.
        """

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self({**scope, _KEY_ID: key_id, IS_DEFERRED: True}, receive, send)

        return app

    @asynccontextmanager
    async def _within_limits(self, caller: Caller, context: RequestContext) -> AsyncIterator[Mapping[str, str]]:
        """Count a request in flight, within the limits of its caller; yields the headers that tell what is left.

        A line of a batch counts in no limit a minute: its batch waits behind all other requests.
        """
        with self.admission.admitted(caller.counted_project, is_deferred=context.is_deferred):
            if context.is_deferred:
                yield {}
                return
            async with self.hooks.accounts.rate_limits.request(caller) as headers:
                yield headers

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        """Give the request up once it has taken ``timeout_s``, its waits included.

        Raises:
            RequestTimeout: it was given up.
        """
        try:
            async with asyncio.timeout(self.timeout_s) as deadline:
                yield
        except TimeoutError as late:
            if not deadline.expired():
                raise
            raise RequestTimeout(
                f"the answer took more than {self.timeout_s:g} s: ask for fewer tokens, or raise --request-timeout-s"
            ) from late

    async def _infer(self, scope: Scope, receive: Receive, response: _Response) -> None:
        caller, whole = caller_of(scope), await receive()
        receive, content = replayed(whole, receive), whole.get("body", b"")
        with self.hooks.request(
            caller,
            content=content,
            path=scope["path"],
            headers=scope["headers"],
            is_deferred=IS_DEFERRED in scope,
            computes=INFERENCE_ROUTES[scope["path"]].computes,
        ) as context:
            response.context = context
            try:
                async with self._deadline(), self._within_limits(caller, context) as response.limits:
                    engine, path = self.engine.serving().engine, scope["path"]
                    if path not in engine.paths:
                        raise RouteUnsupported(f"this server does not answer {path}; that takes {needs(path)}")
                    if path == recorder.PATH:
                        await self.responses(
                            engine.app,
                            scope,
                            receive,
                            response.send_from_engine,
                            project=context.caller.project,
                            may_store=not context.is_deferred,  # thousands of lines would drive all others out
                        )
                    elif wants_store(path, content) and not context.is_deferred:
                        record = CompletionRecorder(self.responses.store)
                        project, sending = context.caller.project, response.send_from_engine
                        await record(engine.app, scope, receive, sending, content=content, project=project)
                    else:
                        await engine.app(scope, receive, response.send_from_engine)
                if context.refusal is not None and response.status is None:
                    raise context.refusal
            except PatchbayError as refusal:
                context.refusal = refusal
                context.status = response.status or status_of(refusal)  # the meter counts it at the end of the block
                raise


def _kept(send: Send, trial: Trial) -> Send:
    """Return ``send`` for a response whose body the trial keeps."""

    async def keep_and_send(message: Message) -> None:
        trial.keep(message.get("body", b""))
        await send(message)

    return keep_and_send


def _sender(caller: Caller, scope: Scope) -> str:
    """Return who shares memory and places with others: the key or subject, or without one the request's address."""
    if caller.key_id is not None:
        return caller.key_id
    client = scope.get("client")
    return "" if client is None else str(client[0])


@dataclass(slots=True, eq=False)
class _Response:
    """The response on its way out: gets headers that name the version, and drops the engine's once hooks refused."""

    to_client: Send
    request_id: str
    context: RequestContext | None = None
    status: int | None = None
    is_stream: bool = False
    """True once a stream of events has begun."""
    is_over: bool = False
    """True once the last byte was sent."""
    key_id: str | None = None
    """Id of the caller's API key, or of the subject of its token, for the log."""
    limits: Mapping[str, str] = field(default_factory=dict)
    """Headers that tell how much is left of the caller's limits."""

    async def send(self, message: Message) -> None:
        """Send ``message``, with headers that name the version that answers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.context is not None:
                self.context.status = self.status
            headers = MutableHeaders(scope=message)
            self.is_stream = headers.get("content-type", "").startswith("text/event-stream")
            headers[REQUEST_ID] = self.request_id
            headers.update(self.limits)
            if self.context is not None and self.context.lease is not None:
                version = self.context.lease.version
                headers[ADAPTER] = version.name
                headers[DIGEST] = version.digest
            if self.context is not None and (trial := self.context.trial) is not None:
                headers[SIDE] = trial.side
                if trial.answer is not None and self.status == HTTPStatus.OK:
                    self.to_client = _kept(self.to_client, trial)
        elif not message.get("more_body"):
            self.is_over = True
        await self.to_client(message)

    async def send_from_engine(self, message: Message) -> None:
        """Send a message of the engine, unless hooks refused the request before a response started.

        The engine's wording of the refusal is dropped; the gateway answers with its own error.
        """
        if self.status is None and self.context is not None and self.context.refusal is not None:
            return
        await self.send(message)

    async def end_stream(self, error: Response) -> None:
        """Send the body of ``error`` as the last event of a stream, where OpenAI's and Anthropic's clients find it."""
        if self.is_over:
            return
        event = b"event: error\ndata: " + bytes(error.body) + b"\n\n"
        async with asyncio.timeout(LAST_EVENT_S):  # a client may read nothing
            await self.send({"type": "http.response.body", "body": event, "more_body": False})

    def log(self, method: str, path: str, took_s: float) -> None:
        """Log the request; its id is bound to the log's context already."""
        version = None if self.context is None else self.context.version
        access_log.info(
            "request",
            method=method,
            path=path,
            status=self.status,
            adapter=None if version is None else version.name,
            took_ms=round(took_s * 1000, 1),
            key=self.key_id,
        )
