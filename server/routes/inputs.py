"""What routes take: the house they work in, and the size of a page."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request

from server.house import House


def _house(request: Request) -> House:
    house: House = request.app.state.house
    return house


HouseOf = Annotated[House, Depends(_house)]

PageLimit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
DEFAULT_PAGE = 50
