"""Errors as HTTP responses: one table maps the error tree to statuses. A test proves that it covers every error.

Bodies are OpenAI's: ``{"error": {"message", "type", "param", "code", …}}``; ``/v1/messages`` answers as Anthropic.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from adapters import errors as adapter_errors
from adapters.errors import PatchbayError
from server import errors as server_errors
from trainer import errors as trainer_errors

_BY_STATUS: Final[Mapping[int, Sequence[type[PatchbayError]]]] = {
    400: (
        adapter_errors.AdapterRefused,
        adapter_errors.AdapterTooCostly,
        adapter_errors.InvalidName,
        adapter_errors.SafetensorsMalformed,
        adapter_errors.SourceError,
        server_errors.BackgroundUnsupported,
        server_errors.InvalidRequest,
        server_errors.MissingScope,
        server_errors.PreviousResponseNotFound,
        trainer_errors.FileInUse,  # not 409, nor those below: OpenAI's client retries a 409
        trainer_errors.IllegalTransition,
        trainer_errors.InvalidField,
    ),
    401: (server_errors.Unauthenticated,),
    403: (adapter_errors.NameNotAllowed, adapter_errors.SourceForbidden, server_errors.Forbidden),
    404: (adapter_errors.NotFound, adapter_errors.SourceNotFound, server_errors.RouteUnsupported),
    408: (server_errors.BodyTooSlow,),
    409: (adapter_errors.Conflict, adapter_errors.WrongBase),
    412: (adapter_errors.AliasMoved,),  # a lost compare-and-set
    413: (adapter_errors.SourceTooLarge, server_errors.BodyTooLarge, trainer_errors.FileTooLarge),
    422: (server_errors.IdempotencyKeyReused,),
    424: (
        adapter_errors.BlobCorrupt,
        server_errors.AdapterQuarantined,
        server_errors.RequestRefused,
        trainer_errors.FileCorrupt,
    ),
    429: (server_errors.Overloaded, server_errors.QuotaExceeded, server_errors.RateLimited),
    500: (
        PatchbayError,
        adapter_errors.BaseModelUnreadable,
        adapter_errors.DatabaseUnusable,
        adapter_errors.WorkerProcessDied,
        trainer_errors.PreflightDied,
    ),
    502: (adapter_errors.BlobStoreUnavailable, adapter_errors.SourceUnavailable, trainer_errors.PublicationRefused),
    503: (adapter_errors.StorageUnavailable, server_errors.Unavailable),
    504: (server_errors.RequestTimeout,),
    507: (adapter_errors.StorageFull,),
}
STATUS: Final = {error: status for status, errors in _BY_STATUS.items() for error in errors}

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    412: "conflict_error",
    424: "server_error",
    429: "rate_limit_error",
}

_NO_PAUSE: Final = (
    "requests in flight finish on the version that they began with, so nothing has to pause for new weights: publish "
    "them with /v1/load_lora_adapter and load_inplace, or with `patchbay adapters push`"
)
_NO_WEIGHTS: Final = "the base model's weights stay: publish new weights as an adapter, with /v1/load_lora_adapter"
_NO_SLEEP: Final = "the engine does not sleep; stop the server to free the device"
NOT_SERVED: Final[Mapping[str, str]] = {
    "/pause": _NO_PAUSE,
    "/resume": _NO_PAUSE,
    "/is_paused": _NO_PAUSE,
    "/server_info": "/v1/models has max_model_len, /version vLLM's version, /metrics the engine's numbers",
    "/load": "patchbay_requests_in_flight in /metrics counts the requests, by adapter",
    "/update_weights": _NO_WEIGHTS,
    "/start_weight_update": _NO_WEIGHTS,
    "/finish_weight_update": _NO_WEIGHTS,
    "/collective_rpc": _NO_WEIGHTS,
    "/get_world_size": _NO_WEIGHTS,
    "/v1/chat/completions/render": "/tokenize renders a conversation",
    "/inference/v1/generate": "/v1/completions takes token ids as its prompt",
    "/init_weight_transfer_engine": _NO_WEIGHTS,
    "/reload_weights": _NO_WEIGHTS,
    "/sleep": _NO_SLEEP,
    "/wake_up": _NO_SLEEP,
    "/is_sleeping": _NO_SLEEP,
    "/reset_prefix_cache": "a version's weights never change, so no cache of them is ever out of date",
    "/invocations": "send the request to /v1/chat/completions or /v1/completions",
    "/v1/responses/input_tokens": "/tokenize counts the tokens of a conversation",
}
"""Routes of vLLM's and OpenAI's servers that clients ask for and patchbay does not serve: why, and what to use."""

_ERROR_SCHEMA: Final = {"type": "object", "required": ["message", "type", "param", "code"]}
_BODY_SCHEMA: Final = {"type": "object", "required": ["error"], "properties": {"error": _ERROR_SCHEMA}}
ERROR_RESPONSE: Final[dict[str, Any]] = {
    "description": "Refused, or failed.",
    "content": {"application/json": {"schema": _BODY_SCHEMA}},
}
"""The response that every route declares in the OpenAPI schema beside its own."""


def status_of(error: PatchbayError) -> int:
    """Return the HTTP status of ``error``: that of its nearest ancestor in the table."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def error_body(message: str, status: int, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error body."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: PatchbayError, path: str) -> JSONResponse:
    """Return the response for ``error`` on the route ``path``."""
    status = status_of(error)
    body = error_body(error.message, status, param=error.param, code=error.code)
    body["error"].update(error.details)
    if path.startswith("/v1/messages"):
        body = {"type": "error", **body}
    headers = {"Retry-After": str(getattr(error, "retry_after_s", 1))} if status in {429, 503} else {}
    headers |= getattr(error, "headers", {})
    if status in {408, 413} or isinstance(error, server_errors.Draining):
        headers["Connection"] = "close"  # what is left of the body is not read; a stopping server is left
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers)


async def _refused(request: Request, error: PatchbayError) -> JSONResponse:
    return error_response(error, request.url.path)


async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    is_json = first["type"] != "json_invalid"  # its ``loc`` is a position in the text
    field = ".".join(str(part) for part in first["loc"] if part not in {"body", "query", "path"} and is_json) or "body"
    found = "" if first["type"] == "missing" or not is_json else f" (found {first.get('input')!r:.100})"
    return JSONResponse(error_body(f"{field}: {first['msg']}{found}", 400, param=field, code="invalid_request"), 400)


async def _disconnected(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # for the log: the client is gone


async def _not_routed(request: Request, error: HTTPException) -> JSONResponse:
    message, path = str(error.detail), request.url.path
    if error.status_code == 404:
        reason = NOT_SERVED.get(path, "/docs lists the routes")
        message = f"there is no {request.method} {path}; {reason}"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{path} takes {allowed}, not {request.method}"
    return JSONResponse(error_body(message, error.status_code), error.status_code, error.headers)


async def _unexpected(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse(error_body("an unexpected error; the server's log has it under this request's id", 500), 500)


HANDLERS: Final[dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]] = {
    PatchbayError: _refused,
    RequestValidationError: _invalid,
    HTTPException: _not_routed,
    ClientDisconnect: _disconnected,
    Exception: _unexpected,
}
"""The response to each kind of exception that a route raises."""
