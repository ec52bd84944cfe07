"""The HTTP app of a server: the gateway in front, the control routes behind it."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from adapters.errors import PatchbayError
from server.gateway.authenticate import Authenticator
from server.gateway.gateway import Gateway
from server.http.errors import error_body, respond
from server.routes import (
    adapters,
    aliases,
    diff,
    files,
    fine_tuning,
    graders,
    merge,
    models,
    process,
    residents,
    versions,
    vllm_calls,
)
from server.state import AppState


def build_app(state: AppState) -> Gateway:
    """Return the ASGI app that serves ``state``."""
    control = FastAPI(title="patchbay", docs_url="/docs", redoc_url=None)
    control.state.parts = state
    of_adapters = (versions, merge, diff, aliases, adapters)
    for routes in (process, models, *of_adapters, residents, vllm_calls, files, fine_tuning, graders):
        control.include_router(routes.router)
    control.add_exception_handler(PatchbayError, respond)
    control.add_exception_handler(RequestValidationError, _invalid)
    control.add_exception_handler(HTTPException, _http)
    control.add_exception_handler(ClientDisconnect, _gone)
    control.add_exception_handler(Exception, _unexpected)
    gateway = control.state.gateway = Gateway(
        control=control,
        hooks=state.hooks,
        engine=state.engine,
        authenticator=Authenticator(state.keys),
        admission=state.admission,
    )
    return gateway


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    is_json = first["type"] != "json_invalid"  # its ``loc`` is a position in the text
    field = ".".join(str(part) for part in first["loc"] if part not in {"body", "query", "path"} and is_json) or "body"
    found = "" if first["type"] == "missing" or not is_json else f" (found {first.get('input')!r:.100})"
    return JSONResponse(error_body(f"{field}: {first['msg']}{found}", 400, param=field, code="invalid_request"), 400)


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody is there to read it; the log shows it


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code in {404, 405}:
        message = f"there is no {request.method} {request.url.path}; /docs lists the routes"
    return JSONResponse(error_body(message, error.status_code), error.status_code, error.headers)


async def _unexpected(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse(error_body("an unexpected error; the server's log has it under this request's id", 500), 500)
