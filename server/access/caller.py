"""Who sent a request: the authenticator puts a caller into the ASGI scope of each request, all other code reads it."""

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any, Final

from adapters.names import DEFAULT_PROJECT
from server.access.scope import ALL_SCOPES, Scope

_CALLER: Final = "patchbay.caller"
_SUBJECT: Final = "oidc:"
_SUBJECT_ID: Final = re.compile(rf"{_SUBJECT}[0-9a-f]{{32}}")


@dataclass(frozen=True, slots=True)
class Caller:
    """What a request may do, and in whose name. Reads no database: it stays as it was when the request arrived."""

    key_id: str | None
    """Id of the caller's API key, or ``subject_id`` of its bearer token; None while requests need neither."""
    project: str
    scopes: frozenset[Scope]
    """With ``admin``, all scopes."""
    adapters: tuple[str, ...] | None = None
    """Patterns of the adapters that the caller may use, where ``*`` stands for any text; None: all adapters."""

    def may(self, scope: Scope) -> bool:
        """Whether the caller has ``scope``."""
        return scope in self.scopes

    @property
    def has_token(self) -> bool:
        """Whether the caller sent a bearer token of an issuer, not an API key."""
        return self.key_id is not None and self.key_id.startswith(_SUBJECT)

    @property
    def seen_project(self) -> str | None:
        """The project whose files, jobs, batches and responses the caller may see; None: with ``admin``, all."""
        return None if self.may(Scope.ADMIN) else self.project

    @property
    def counted_project(self) -> str | None:
        """The project whose share of a capacity the caller takes; None while the server has no keys: one has it all."""
        return None if self.key_id is None else self.project

    def may_name(self, adapter: str) -> bool:
        """Whether the patterns of the caller's key allow this name of an adapter."""
        return self.adapters is None or any(fnmatchcase(adapter, pattern) for pattern in self.adapters)


ANONYMOUS: Final = Caller(None, DEFAULT_PROJECT, ALL_SCOPES)
"""The caller of each request while the server has no keys, and of the routes that need none."""


def subject_id(issuer: str, subject: str) -> str:
    """Return the id of callers with tokens for ``subject``, which stands where callers with a key have the key's id.

    It is ``oidc:`` and the first 32 hex digits of the SHA-256 of both texts with a line feed between them.
    """
    return _SUBJECT + sha256(f"{issuer}\n{subject}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_subject_id(text: str) -> bool:
    """Whether ``text`` has the form of ``subject_id``."""
    return _SUBJECT_ID.fullmatch(text) is not None


def set_caller(scope: MutableMapping[str, Any], caller: Caller) -> None:
    """Record ``caller`` in the ASGI ``scope`` of its request."""
    scope[_CALLER] = caller


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Return the caller of the request with this ASGI ``scope``.

    Raises:
        KeyError: the request did not pass the authenticator.
    """
    caller: Caller = scope[_CALLER]
    return caller
