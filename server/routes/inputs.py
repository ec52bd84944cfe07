"""Dependencies of the routes: the server's parts and the size of a page."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request

from server.state import AppState


def _state(request: Request) -> AppState:
    state: AppState = request.app.state.parts
    return state


StateOf = Annotated[AppState, Depends(_state)]

PageLimit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
DEFAULT_PAGE = 50
