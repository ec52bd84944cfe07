"""Who may do what. Denied by default: a route needs a key unless it is named open here."""

from __future__ import annotations

from collections.abc import Mapping

from server.access.key_ring import KeyRing, Scope
from server.errors import Forbidden, Unauthenticated
from server.gateway.inference_routes import INFERENCE_ROUTES

OPEN = frozenset({"/health", "/ready"})
"""For load balancers and container runtimes, which hold no key."""


class Authenticator:
    """Checks the bearer key of a request against ``keys``; an empty ring lets everybody in."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    def authenticate(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Let the request pass.

        Raises:
            Unauthenticated: no key, or one that is unknown or revoked.
            Forbidden: the key lacks the scope of the route.
        """
        if path in OPEN or self._keys.is_empty:
            return
        secret = _bearer(headers)
        if not secret:
            raise Unauthenticated(
                "this server needs an API key: send `Authorization: Bearer <key>`; an operator makes one with "
                "`patchbay keys create`"
            )
        key = self._keys.find(secret)
        if key is None:
            raise Unauthenticated(
                "this API key is unknown or revoked; an operator makes one with `patchbay keys create`"
            )
        needed = scope_of(method, path)
        if needed not in key.scopes:
            raise Forbidden(
                f"key '{key.name}' has no scope '{needed}', which {method} {path} needs; make one with "
                f"`patchbay keys create --scope {needed}`"
            )


def scope_of(method: str, path: str) -> Scope:
    """Return the scope ``method path`` needs: inference and the model list ``infer``, everything else ``admin``."""
    if path in INFERENCE_ROUTES or (method in {"GET", "HEAD"} and path.startswith("/v1/models")):
        return Scope.INFER
    return Scope.ADMIN


def _bearer(headers: Mapping[str, str]) -> str:
    """Return the key that the request carries: OpenAI's header, or Anthropic's."""
    kind, _, secret = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return secret.strip()
    return headers.get("x-api-key", "").strip()
