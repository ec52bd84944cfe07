"""Checks the API key of each request. Every route needs a key with the right scope, unless it is listed in OPEN."""

from collections.abc import Mapping

from server.access.api_key import ApiKey, Scope
from server.access.key_ring import KeyRing
from server.errors import Forbidden, Unauthenticated
from server.gateway.inference_routes import INFERENCE_ROUTES

OPEN = frozenset({"/health", "/ready", "/ping"})
"""Routes for load balancers and container runtimes, which have no key."""


def authenticate(keys: KeyRing, method: str, path: str, headers: Mapping[str, str]) -> str | None:
    """Check the bearer key of a request; return the key's id. While no key exists, every request passes: None.

    Raises:
        Unauthenticated: no key, or one that is unknown or revoked.
        Forbidden: the key lacks the scope of the route.
    """
    if path in OPEN or keys.is_empty:
        return None
    secret = _bearer(headers)
    if not secret:
        raise Unauthenticated(
            "this server needs an API key: send `Authorization: Bearer <key>`; an operator makes one with "
            "`patchbay keys create`"
        )
    return _permitted(keys.find(secret), method, path)


def authorize(keys: KeyRing, key_id: str | None, method: str, path: str) -> str | None:
    """Check a request that the server itself sends for the holder of the key with the id ``key_id``.

    Raises:
        Unauthenticated: the key was revoked; or ``key_id`` is None, and the server has keys by now.
        Forbidden: the key lacks the scope of the route.
    """
    if keys.is_empty:
        return None
    return _permitted(None if key_id is None else keys.get(key_id), method, path)


def _permitted(key: ApiKey | None, method: str, path: str) -> str:
    if key is None:
        raise Unauthenticated("this API key is unknown or revoked; an operator makes one with `patchbay keys create`")
    needed = scope_of(method, path)
    if needed not in key.scopes:
        raise Forbidden(
            f"key '{key.name}' has no scope '{needed}', which {method} {path} needs; make one with "
            f"`patchbay keys create --scope {needed}`"
        )
    return key.id


def scope_of(method: str, path: str) -> Scope:
    """Return the scope that a request needs: ``infer`` for inference and what its clients look up, else ``admin``."""
    if path in INFERENCE_ROUTES or path.startswith("/v1/responses/"):
        return Scope.INFER
    if method in {"GET", "HEAD"} and path.startswith(("/v1/models", "/version")):
        return Scope.INFER
    return Scope.ADMIN


def _bearer(headers: Mapping[str, str]) -> str:
    """Return the key in OpenAI's header (Authorization) or in Anthropic's (x-api-key); empty if there is none."""
    kind, _, secret = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return secret.strip()
    return headers.get("x-api-key", "").strip()
