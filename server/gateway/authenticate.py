"""Checks the API key of each request. Every route needs a key with the right scope, unless it is listed in OPEN."""

from collections.abc import Mapping

from server.access.api_key import Scope
from server.access.key_ring import KeyRing
from server.errors import Forbidden, Unauthenticated
from server.gateway.inference_routes import INFERENCE_ROUTES

OPEN = frozenset({"/health", "/ready"})
"""Routes for load balancers and container runtimes, which have no key."""


def authenticate(keys: KeyRing, method: str, path: str, headers: Mapping[str, str]) -> None:
    """Check the bearer key of a request; returns if it may pass. While no key exists, every request passes.

    Raises:
        Unauthenticated: no key, or one that is unknown or revoked.
        Forbidden: the key lacks the scope of the route.
    """
    if path in OPEN or keys.is_empty:
        return
    secret = _bearer(headers)
    if not secret:
        raise Unauthenticated(
            "this server needs an API key: send `Authorization: Bearer <key>`; an operator makes one with "
            "`patchbay keys create`"
        )
    key = keys.find(secret)
    if key is None:
        raise Unauthenticated("this API key is unknown or revoked; an operator makes one with `patchbay keys create`")
    needed = scope_of(method, path)
    if needed not in key.scopes:
        raise Forbidden(
            f"key '{key.name}' has no scope '{needed}', which {method} {path} needs; make one with "
            f"`patchbay keys create --scope {needed}`"
        )


def scope_of(method: str, path: str) -> Scope:
    """Return the scope that a request needs: ``infer`` for inference and the model list, else ``admin``."""
    if path in INFERENCE_ROUTES or (method in {"GET", "HEAD"} and path.startswith("/v1/models")):
        return Scope.INFER
    return Scope.ADMIN


def _bearer(headers: Mapping[str, str]) -> str:
    """Return the key in OpenAI's header (Authorization) or in Anthropic's (x-api-key); empty if there is none."""
    kind, _, secret = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return secret.strip()
    return headers.get("x-api-key", "").strip()
