"""The HTTP app of a server: the gateway in front, the control routes behind it."""

from fastapi import Depends, FastAPI

from server.gateway.gateway import Gateway
from server.http.errors import ERROR_RESPONSE, HANDLERS
from server.http.query import refuse_unknown_parameters
from server.routes import adapters, batches, files, fine_tuning, models, process, uploads, versions, vllm_calls
from server.state import AppState

ROUTES = (process, models, versions, adapters, vllm_calls, files, uploads, batches, fine_tuning)


def build_app(state: AppState) -> Gateway:
    """Return the ASGI app that serves ``state``."""
    control = FastAPI(
        title="patchbay",
        docs_url="/docs",
        redoc_url=None,
        dependencies=[Depends(refuse_unknown_parameters)],
        exception_handlers=HANDLERS,
        responses={"default": ERROR_RESPONSE},
    )
    for routes in ROUTES:
        control.include_router(routes.router)
    control.state.app_state = state
    gateway = control.state.gateway = Gateway(
        control=control, hooks=state.hooks, engine=state.engine, keys=state.keys, admission=state.admission
    )
    return gateway
