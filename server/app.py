"""The HTTP app of a server: cross-origin rules in front, then the gateway, the control routes behind it."""

from typing import Any, Final

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from server.accounts.audited import Audited
from server.accounts.idempotency import Idempotent
from server.gateway.browser_rules import LOOPBACK_ORIGIN, BrowserRules
from server.gateway.gateway import ADAPTER, DIGEST, REQUEST_ID, SIDE, Gateway
from server.gateway.inference_routes import INFERENCE_ROUTES
from server.http.errors import ERROR_RESPONSE, HANDLERS
from server.http.query import refuse_unknown_parameters
from server.responses.recorder import ResponseRecorder
from server.routes import (
    accounts,
    adapters,
    batches,
    evals,
    feedback,
    files,
    fine_tuning,
    keys,
    models,
    process,
    responses,
    rollouts,
    status,
    uploads,
    versions,
    vllm_calls,
)
from server.settings import Settings
from server.state import AppState

ROUTES = (
    process,
    status,
    models,
    versions,
    adapters,
    rollouts,
    vllm_calls,
    files,
    uploads,
    batches,
    responses,
    feedback,
    fine_tuning,
    evals,
    accounts,
    keys,
)

_JSON_BODY: Final = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}


def build_app(state: AppState) -> CORSMiddleware:
    """Return the ASGI app that serves ``state``."""
    control = FastAPI(
        title="patchbay",
        docs_url="/docs",
        redoc_url=None,
        dependencies=[Depends(refuse_unknown_parameters)],
        exception_handlers=HANDLERS,
        responses={"default": ERROR_RESPONSE},
    )
    for routes in ROUTES:
        control.include_router(routes.router)
    _declare_inference(control)
    control.state.app_state = state
    gateway = control.state.gateway = Gateway(
        control=Audited(Idempotent(control, state.accounts.answers), state.accounts.audit_log),
        hooks=state.hooks,
        engine=state.engine,
        keys=state.keys,
        admission=state.admission,
        bodies=state.bodies,
        responses=ResponseRecorder(state.responses),
        issuer=state.issuer,
        browsers=BrowserRules(state.settings.allowed_origins, state.settings.allow_anonymous),
        timeout_s=state.settings.request_timeout_s,
    )
    return _with_cross_origin_rules(gateway, state.settings)


def _declare_inference(control: FastAPI) -> None:
    """Add the engine's routes to the OpenAPI schema, and to the paths for which another method is a 405."""
    for path, route in INFERENCE_ROUTES.items():
        control.add_api_route(
            path,
            _answered_by_gateway,
            methods=[route.method],
            summary=route.summary,
            tags=["inference"],
            openapi_extra={"requestBody": _JSON_BODY} if route.method == "POST" else None,
        )


async def _answered_by_gateway() -> dict[str, Any]:
    raise AssertionError("the gateway hands this route's requests to the engine")


def _with_cross_origin_rules(app: ASGIApp, settings: Settings) -> CORSMiddleware:
    """Return ``app`` for pages of other origins too; preflights come without a key, and so are answered in front of it.

    Where the operator names no origins, pages on loopback addresses may call.
    """
    return CORSMiddleware(
        app,
        allow_origins=settings.allowed_origins,
        allow_origin_regex=None if settings.allowed_origins else LOOPBACK_ORIGIN,
        allow_methods=settings.allowed_methods,
        allow_headers=settings.allowed_headers,
        allow_credentials=settings.allow_credentials,
        expose_headers=(REQUEST_ID, ADAPTER, DIGEST, SIDE),
    )
