"""Checks the API key of each request. Every route needs a key with the right scope, unless it is listed in OPEN."""

from collections.abc import Mapping

from server.access.api_key import ApiKey
from server.access.caller import ANONYMOUS, Caller
from server.access.key_ring import KeyRing
from server.access.scope import Scope
from server.errors import Forbidden, Unauthenticated
from server.gateway.route_scopes import OPEN, scope_of


def authenticate(keys: KeyRing, method: str, path: str, headers: Mapping[str, str]) -> Caller:
    """Check the bearer key of a request and return its caller. While no key exists, every request passes.

    Raises:
        Unauthenticated: no key, or one that is unknown, revoked or expired.
        Forbidden: the key lacks the scope of the route.
    """
    if path in OPEN or keys.is_empty:
        return ANONYMOUS
    secret = _bearer(headers)
    if not secret:
        raise Unauthenticated(
            "this server needs an API key: send `Authorization: Bearer <key>`; an operator makes one with "
            "`patchbay keys create`"
        )
    return _permitted(keys.find(secret), method, path)


def authorize(keys: KeyRing, key_id: str | None, method: str, path: str) -> Caller:
    """Check a request that the server itself sends for the holder of the key with the id ``key_id``.

    Raises:
        Unauthenticated: the key was revoked or has expired; or ``key_id`` is None, and the server has keys by now.
        Forbidden: the key lacks the scope of the route.
    """
    if keys.is_empty:
        return ANONYMOUS
    return _permitted(None if key_id is None else keys.get(key_id), method, path)


def _permitted(key: ApiKey | None, method: str, path: str) -> Caller:
    if key is None:
        raise Unauthenticated(
            "this API key is unknown, revoked or expired; an operator makes one with `patchbay keys create`"
        )
    caller = key.caller
    needed = scope_of(method, path)
    if not caller.may(needed):
        raise Forbidden(
            f"key '{key.name}' has no scope '{needed}', which {method} {path} needs; make one with "
            f"`patchbay keys create --scope {needed}`"
        )
    return caller


def require(caller: Caller, scope: Scope, action: str) -> None:
    """Raise Forbidden unless ``caller`` has ``scope``, which ``action`` needs beside the scope of its route."""
    if not caller.may(scope):
        raise Forbidden(f"this key has no scope '{scope}', which {action} needs beside the scope of the route")


def _bearer(headers: Mapping[str, str]) -> str:
    """Return the key in OpenAI's header (Authorization) or in Anthropic's (x-api-key); empty if there is none."""
    kind, _, secret = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return secret.strip()
    return headers.get("x-api-key", "").strip()
