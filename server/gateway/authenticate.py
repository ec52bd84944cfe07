"""Checks who sends each request: by an API key, or by a bearer token of the issuer where the server has one.

Every route needs the right scope, unless it is listed in OPEN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from server.access.api_key import ApiKey
from server.access.caller import ANONYMOUS, Caller
from server.access.key_ring import KeyRing
from server.access.scope import Scope
from server.errors import Forbidden, Unauthenticated
from server.gateway.route_scopes import OPEN, scope_of

if TYPE_CHECKING:
    from server.access.token_issuer import TokenIssuer  # needs an extra


async def authenticate(
    keys: KeyRing, issuer: TokenIssuer | None, method: str, path: str, headers: Mapping[str, str]
) -> Caller:
    """Check the key or the token of a request and return its caller. While the ring is open, every request passes.

    ``issuer`` None: no tokens are taken.

    Raises:
        Unauthenticated: no key, or one that is unknown, revoked or expired; a token that is not valid.
        IssuerUnavailable: a token cannot be verified at present.
        Forbidden: the key or the token lacks the scope of the route, or the token states no project.
    """
    if path in OPEN or keys.is_open:
        return ANONYMOUS
    secret = _bearer(headers)
    if not secret:
        raise Unauthenticated(
            f"this server needs an API key{'' if issuer is None else f' or a bearer token of {issuer.url}'}: send "
            f"`Authorization: Bearer <key{'' if issuer is None else ' or token'}>`; an operator makes a key with "
            "`patchbay keys create`"
        )
    if issuer is None or not _is_token(secret):
        return _permitted(keys.find(secret), method, path)
    caller, needed = issuer.find(secret) or await issuer.verify(secret), scope_of(method, path)
    if not caller.may(needed):
        raise Forbidden(
            f"the bearer token has no scope '{needed}', which {method} {path} needs; let {issuer.url} add it to the "
            f"claim '{issuer.scope_claim}'"
        )
    return caller


def authorize(keys: KeyRing, key_id: str | None, method: str, path: str) -> Caller:
    """Check a request that the server itself sends for the holder of the key with the id ``key_id``.

    Raises:
        Unauthenticated: the key was revoked or has expired; or ``key_id`` is None, and requests need a key by now.
        Forbidden: the key lacks the scope of the route.
    """
    if keys.is_open:
        return ANONYMOUS
    return _permitted(None if key_id is None else keys.get(key_id), method, path)


def holder(keys: KeyRing, key_id: str | None, project: str) -> Caller:
    """Return the holder of the key with the id ``key_id``, for whom the server itself works.

    Once the key was revoked, it is a caller of ``project`` without any scope: its requests are denied.
    """
    if keys.is_open:
        return ANONYMOUS
    key = None if key_id is None else keys.get(key_id)
    return Caller(key_id, project, frozenset()) if key is None else key.caller


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
        holder = "bearer token" if caller.has_token else "key"
        raise Forbidden(f"this {holder} has no scope '{scope}', which {action} needs beside the scope of the route")


def _bearer(headers: Mapping[str, str]) -> str:
    """Return the secret in OpenAI's header (Authorization) or in Anthropic's (x-api-key); empty if there is none."""
    kind, _, secret = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return secret.strip()
    return headers.get("x-api-key", "").strip()


def _is_token(secret: str) -> bool:
    """Whether ``secret`` has the form of a signed token: three parts between dots. A key has no dot."""
    return secret.count(".") == 2 and secret.isascii()
