"""An API key as it is stored: a hash of the secret, never the secret."""

import re
import secrets
import string
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from server.access.caller import Caller
from server.access.scope import ALL_SCOPES, Scope

ID_LENGTH: Final = 8
_ID_ALPHABET: Final = string.ascii_lowercase + string.digits  # no '-' or '_': ids are typed on command lines
_SECRET_BYTES: Final = 32
_SECRET: Final = re.compile(rf"pb_([a-z0-9]{{{ID_LENGTH}}})_[A-Za-z0-9_-]{{43}}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. It is valid until ``revoked_at`` and ``expires_at``; times are UTC."""

    id: str
    name: str
    scopes: frozenset[Scope]
    sha256: str
    """SHA-256 of the whole secret in hex digits. A slow hash is not needed: 256 random bits cannot be guessed."""
    last4: str
    """The secret's last four characters, by which its holder can recognise it."""
    created_at: datetime
    revoked_at: datetime | None
    project: str
    adapters: tuple[str, ...] | None
    """Patterns of the adapters that the key's holder may use; None: all."""
    expires_at: datetime | None
    last_used_at: datetime | None
    """A moment at most a few minutes before the last use; None: never used."""

    @property
    def caller(self) -> Caller:
        """The caller of requests with this key."""
        scopes = ALL_SCOPES if Scope.ADMIN in self.scopes else self.scopes
        return Caller(self.id, self.project, scopes, self.adapters)

    def is_valid(self, now: datetime) -> bool:
        """Whether the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def matches(self, secret: str) -> bool:
        """Whether ``secret`` is this key's; the comparison takes constant time."""
        return compare_digest(self.sha256, digest_of(secret))


def mint_secret() -> tuple[str, str]:
    """Return a new (id, secret); the secret reads ``pb_<id>_<43 characters>``."""
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(ID_LENGTH))
    return key_id, f"pb_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def id_of(secret: str) -> str | None:
    """Return the key id inside ``secret``; None if the text does not have the form of a secret."""
    match = _SECRET.fullmatch(secret)
    return None if match is None else match[1]


def digest_of(secret: str) -> str:
    """Return the hex SHA-256 of ``secret``."""
    return sha256(secret.encode()).hexdigest()
