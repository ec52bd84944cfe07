"""Dependencies of the routes: the server's state, the caller's key and the size of a page."""

from typing import Annotated

from fastapi import Depends, Query, Request

from server.access.caller import Caller, caller_of
from server.state import AppState


async def _state(request: Request) -> AppState:  # async: FastAPI calls a plain function in a thread
    state: AppState = request.app.state.app_state
    return state


StateDep = Annotated[AppState, Depends(_state)]

PageLimit = Annotated[int, Query(ge=1, le=200, description="Entries on the page, at most.")]
DEFAULT_PAGE = 50


async def _caller(request: Request) -> Caller:
    return caller_of(request.scope)


CallerDep = Annotated[Caller, Depends(_caller)]


async def _key_id(caller: CallerDep) -> str | None:
    return caller.key_id


KeyIdDep = Annotated[str | None, Depends(_key_id)]
"""The id of the caller's API key; None while the server has no keys."""
