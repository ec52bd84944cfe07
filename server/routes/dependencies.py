"""Dependencies of the routes: the server's state, the caller, what the caller may see, and the size of a page."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request

from server.access.caller import Caller, caller_of
from server.access.visible_adapters import VisibleAdapters
from server.state import AppState


async def _state(request: Request) -> AppState:  # async: FastAPI calls a plain function in a thread
    state: AppState = request.app.state.app_state
    return state


StateDep = Annotated[AppState, Depends(_state)]

PageLimit = Annotated[int, Query(ge=1, le=200, description="Entries on the page, at most.")]
DEFAULT_PAGE = 50


@dataclass(frozen=True, slots=True)
class ListQuery:
    """The page of a list as OpenAI's clients ask for it."""

    after: Annotated[str | None, Query(description="Id of the last entry of the page before.")] = None
    limit: PageLimit = 20
    order: Annotated[Literal["asc", "desc"], Query(description="The oldest first, or the newest.")] = "asc"

    @property
    def paging(self) -> dict[str, Any]:
        """The arguments of the stores' lists."""
        return {"after": self.after, "limit": self.limit, "newest_first": self.order == "desc"}


ListDep = Annotated[ListQuery, Depends()]


async def _caller(request: Request) -> Caller:
    return caller_of(request.scope)


CallerDep = Annotated[Caller, Depends(_caller)]


async def _visible_adapters(state: StateDep, caller: CallerDep) -> VisibleAdapters:
    return VisibleAdapters(state.registry.catalog, caller)


VisibleDep = Annotated[VisibleAdapters, Depends(_visible_adapters)]


async def check_adapter(request: Request, state: StateDep, adapters: VisibleDep) -> None:
    """Check that the caller may see the adapter ``name`` of the path and, but for GET, change it.

    A share with the caller's ``project`` is the caller's to end, too.

    Raises:
        AdapterNotFound: there is none.
        AdapterShared: it is another project's.
    """
    name = request.path_params.get("name")
    if name is not None:
        is_own_share = request.path_params.get("project") == adapters.caller.project
        find = adapters.adapter if request.method == "GET" or is_own_share else adapters.owned
        await state.registry.look_up(lambda _: find(name))


async def _seen_project(caller: CallerDep) -> str | None:
    return caller.seen_project


ProjectDep = Annotated[str | None, Depends(_seen_project)]
"""The project whose files, jobs, batches and responses the caller may see; None: all."""


async def _sent_bytes(request: Request) -> int:
    stated = request.headers.get("content-length", "")
    return int(stated) if stated.isdecimal() else 0


SentBytesDep = Annotated[int, Depends(_sent_bytes)]
"""The bytes of the request's body as its head states them; 0 where it states none."""


async def check_stored(state: StateDep, caller: CallerDep, size_bytes: SentBytesDep) -> None:
    """Check that the caller's project may store the body of the request; QuotaExceeded otherwise."""
    await state.accounts.quotas.check_stored(caller.project, size_bytes)
