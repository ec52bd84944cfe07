"""Query parameters: an unknown one is an error, so that a typo is never ignored.

Probes may carry any: load balancers and monitors append parameters of their own, and one that gets 400 takes a healthy
server out of service.
"""

from typing import Final

from fastapi import Request
from fastapi.dependencies.utils import get_flat_dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel

from server.errors import InvalidRequest

DEEP_OBJECTS: Final = frozenset({"include", "metadata"})
"""Parameters that OpenAI's client writes as ``name[key]=value`` or ``name[]=value``."""
PROBES: Final = frozenset({"/health", "/ready", "/ping", "/metrics"})


async def refuse_unknown_parameters(request: Request) -> None:
    """Check the query parameters against those that the route declares. A dependency of the whole app.

    Raises:
        InvalidRequest: a parameter is unknown; the message lists the known ones.
    """
    route = request.scope["route"]
    if not request.query_params or route.path in PROBES:
        return
    known = _declared(route)
    for name in request.query_params:
        base, bracket, _ = name.partition("[")
        if name not in known and not (bracket and name.endswith("]") and base in known & DEEP_OBJECTS):
            listed = ", ".join(sorted(known)) or "none"
            raise InvalidRequest(
                f"unknown query parameter {name!r:.100}; parameters of this route: {listed}", param=name[:100]
            )


def _declared(route: APIRoute) -> set[str]:
    names: set[str] = set()
    for field in get_flat_dependant(route.dependant).query_params:
        kind = field.field_info.annotation
        names |= kind.model_fields.keys() if isinstance(kind, type) and issubclass(kind, BaseModel) else {field.alias}
    return names
