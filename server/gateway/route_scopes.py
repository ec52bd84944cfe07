"""Which scope each route needs: the one table. What is not in it needs ``admin``; a test compares it with the app."""

from collections.abc import Iterator, Mapping
from re import Pattern
from typing import Final

from starlette.routing import compile_path

from server.access.scope import Scope
from server.gateway.inference_routes import INFERENCE_ROUTES

OPEN: Final = frozenset({"/health", "/ready", "/ping"})
"""Routes for load balancers and container runtimes, which have no key."""

_VERSION: Final = "/v1/adapters/{name}/versions/{version}"
_ROLLOUT: Final = "/v1/adapters/{name}/aliases/{alias}/rollout"
_JOB: Final = "/v1/fine_tuning/jobs/{job_id}"
_EVAL: Final = "/v1/evals/{eval_id}"
_PERMISSIONS: Final = "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions"

ROUTE_SCOPES: Final[Mapping[Scope, tuple[str, ...]]] = {
    Scope.INFER: (
        *(f"{route.method} {path}" for path, route in INFERENCE_ROUTES.items()),
        "GET /version",
        "GET /v1/usage",
        "GET /v1/models",
        "GET /v1/models/{model:path}",
        "GET /v1/responses/{response_id}",
        "DELETE /v1/responses/{response_id}",
        "POST /v1/responses/{response_id}/cancel",
        "GET /v1/responses/{response_id}/input_items",
        "GET /v1/chat/completions/{completion_id}",
        "DELETE /v1/chat/completions/{completion_id}",
        "GET /v1/feedback",
        "POST /v1/feedback",
        "GET /v1/feedback/{feedback_id}",
        "DELETE /v1/feedback/{feedback_id}",
    ),
    Scope.ADAPTERS_READ: (
        "GET /v1/adapters",
        "GET /v1/adapters/{name}",
        "GET /v1/adapters/{name}/aliases",
        "GET /v1/adapters/{name}/aliases/{alias}",
        f"GET {_ROLLOUT}",
        "GET /v1/adapters/{name}/versions",
        f"GET {_VERSION}",
        f"GET {_VERSION}/content",
        f"GET {_VERSION}/content/{{file:path}}",
        "POST /v1/adapters/diff",
    ),
    Scope.ADAPTERS_WRITE: (
        "DELETE /v1/adapters/{name}",
        "POST /v1/adapters/{name}/versions",
        "POST /v1/adapters/{name}/merge",
        "DELETE /v1/adapters/{name}/shares/{project}",
        f"DELETE {_VERSION}",
        f"POST {_VERSION}/load",
        f"POST {_VERSION}/unload",
        f"POST {_VERSION}/pin",
        f"POST {_VERSION}/unpin",
        "POST /v1/load_lora_adapter",
        "POST /v1/unload_lora_adapter",
        "DELETE /v1/models/{model:path}",
    ),
    Scope.ALIASES_WRITE: (
        "PUT /v1/adapters/{name}/aliases/{alias}",
        "DELETE /v1/adapters/{name}/aliases/{alias}",
        f"PUT {_ROLLOUT}",
        f"DELETE {_ROLLOUT}",
        f"POST {_ROLLOUT}/promote",
        f"POST {_ROLLOUT}/rollback",
        "POST /v1/adapters/{name}/promote",
        "POST /v1/adapters/{name}/rollback",
    ),
    Scope.TRAINING: (
        "GET /v1/fine_tuning/jobs",
        "POST /v1/fine_tuning/jobs",
        f"GET {_JOB}",
        *(f"POST {_JOB}/{verb}" for verb in ("cancel", "pause", "resume")),
        f"GET {_JOB}/events",
        f"GET {_JOB}/checkpoints",
        f"GET {_JOB}/model",
        f"GET {_JOB}/model/{{file}}",
        f"GET {_PERMISSIONS}",
        f"POST {_PERMISSIONS}",
        f"DELETE {_PERMISSIONS}/{{permission_id}}",
    ),
    Scope.FILES: (
        "GET /v1/files",
        "POST /v1/files",
        "GET /v1/files/{file_id}",
        "GET /v1/files/{file_id}/content",
        "DELETE /v1/files/{file_id}",
        "POST /v1/feedback/export",
        "POST /v1/uploads",
        "POST /v1/uploads/{upload_id}/parts",
        "POST /v1/uploads/{upload_id}/complete",
        "POST /v1/uploads/{upload_id}/cancel",
        "GET /v1/batches",
        "POST /v1/batches",
        "GET /v1/batches/{batch_id}",
        "POST /v1/batches/{batch_id}/cancel",
    ),
    Scope.EVALS: (
        "POST /v1/fine_tuning/alpha/graders/validate",
        "POST /v1/fine_tuning/alpha/graders/run",
        "GET /v1/evals",
        "POST /v1/evals",
        *(f"{verb} {_EVAL}" for verb in ("GET", "POST", "DELETE")),
        f"GET {_EVAL}/runs",
        f"POST {_EVAL}/runs",
        *(f"{verb} {_EVAL}/runs/{{run_id}}" for verb in ("GET", "POST", "DELETE")),
        f"POST {_EVAL}/runs/{{run_id}}/cancel",
        f"GET {_EVAL}/runs/{{run_id}}/output_items",
        f"GET {_EVAL}/runs/{{run_id}}/output_items/{{output_item_id}}",
    ),
    Scope.METRICS: ("GET /metrics", "GET /v1/status", "GET /v1/residents"),
    Scope.ADMIN: (
        "PUT /v1/adapters/{name}/shares/{project}",
        f"POST {_VERSION}/unquarantine",
        f"POST {_JOB}/publish",
        f"POST {_JOB}/policy_answers",
        f"POST {_JOB}/checkpoints/{{step}}/publish",
        "GET /docs",
        "GET /docs/oauth2-redirect",
        "GET /openapi.json",
        "GET /v1/limits",
        "PUT /v1/limits/{kind}/{account_id}",
        "DELETE /v1/limits/{kind}/{account_id}",
        "GET /v1/audit",
        "GET /v1/audit/verification",
        "GET /v1/keys",
        "POST /v1/keys",
        "POST /v1/keys/{key_id}/rotate",
        "DELETE /v1/keys/{key_id}",
    ),
}
"""The routes of each scope as a method and the path as the app declares it; HEAD needs what GET needs."""


def scope_of(method: str, path: str) -> Scope:
    """Return the scope that a request needs; ``admin`` where the table has no route for it."""
    method = "GET" if method == "HEAD" else method
    inference = INFERENCE_ROUTES.get(path)
    if inference is not None and inference.method == method:
        return Scope.INFER
    return next((scope for pattern, scope in _PATTERNS.get(method, ()) if pattern.match(path)), Scope.ADMIN)


def _patterns() -> Iterator[tuple[str, Pattern[str], Scope]]:
    for scope, routes in ROUTE_SCOPES.items():
        for route in routes:
            method, _, path = route.partition(" ")
            yield method, compile_path(path)[0], scope


_PATTERNS: Final = {
    method: tuple((pattern, scope) for each, pattern, scope in _patterns() if each == method)
    for method in ("GET", "POST", "PUT", "DELETE")
}
