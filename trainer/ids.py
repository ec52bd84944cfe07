"""Ids in OpenAI's form: a prefix and 24 random characters."""

from __future__ import annotations

import secrets
import string
from typing import Final

_ALPHABET: Final = string.ascii_lowercase + string.digits  # no capitals: a file's id is also its name on disk
_LENGTH: Final = 24
MAX_ID_LENGTH: Final = 40


def mint(prefix: str) -> str:
    """Return a new id that begins with ``prefix``, such as ``ftjob-``."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
