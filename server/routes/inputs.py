"""What routes take: the house they work in, the size of a page, and bodies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError

from server.house import House


def _house(request: Request) -> House:
    house: House = request.app.state.house
    return house


HouseOf = Annotated[House, Depends(_house)]

PageLimit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
DEFAULT_PAGE = 50

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


class Body(BaseModel):
    """A JSON body. A key that is not known is an error: a typo is never ignored.

    So is text that a database refuses: JSON can escape NUL, and half a surrogate pair, for which UTF-8 has no bytes.
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
