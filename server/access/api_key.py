"""A key, as it is kept: never the secret itself, only what is needed to recognise it."""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from typing import Final

ID_LENGTH: Final = 8
_ID_ALPHABET: Final = string.ascii_lowercase + string.digits  # no '-' or '_': ids are typed on command lines
_SECRET_BYTES: Final = 32
_SECRET: Final = re.compile(rf"pb_([a-z0-9]{{{ID_LENGTH}}})_[A-Za-z0-9_-]{{43}}")


class Scope(StrEnum):
    """What a key may do."""

    INFER = "infer"
    """Ask models, and list them."""
    ADMIN = "admin"
    """Everything, inference included."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. It counts until ``revoked_at``; times are UTC."""

    id: str
    name: str
    scopes: frozenset[Scope]
    sha256: str
    """Hex digest of the whole secret. 256 random bits need no slow hash: there is nothing to guess."""
    last4: str
    """The secret's last four characters, for people who ask which one they hold."""
    created_at: datetime
    revoked_at: datetime | None

    def matches(self, secret: str) -> bool:
        """Return whether ``secret`` is this key's, in a time that tells nothing about it."""
        return compare_digest(self.sha256, digest_of(secret))


def mint_secret() -> tuple[str, str]:
    """Return a new (id, secret); the secret reads ``pb_<id>_<43 characters>``."""
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(ID_LENGTH))
    return key_id, f"pb_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def id_of(secret: str) -> str | None:
    """Return the id that ``secret`` names; None if it is no secret of ours."""
    ours = _SECRET.fullmatch(secret)
    return None if ours is None else ours[1]


def digest_of(secret: str) -> str:
    """Return the hex SHA-256 of ``secret``."""
    return sha256(secret.encode()).hexdigest()
