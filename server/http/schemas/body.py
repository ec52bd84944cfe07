"""The base class of JSON request bodies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


Json = dict[str, Any]


class Body(BaseModel):
    """A JSON body. An unknown key is an error, so that a typo is never ignored.

    Text that databases refuse is an error too: JSON can escape NUL, and half a surrogate pair, which UTF-8 lacks.
    """

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _is_storable(cls, value: object) -> object:
        if any(map(_UNSTORABLE.search, _texts(value))):
            raise PydanticCustomError("text", "Input should have neither NUL nor half a surrogate pair in its text")
        return value


def _texts(value: object) -> Iterator[str]:
    """Yield every string in parsed JSON. No recursion: JSON may be nested as deep as Python's stack."""
    pending = [value]
    while pending:
        match pending.pop():
            case str(text):
                yield text
            case dict(entries):
                pending += [*entries, *entries.values()]
            case list(entries):
                pending += entries
