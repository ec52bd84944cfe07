"""The state of one inference request: the model it names, the version that answers it, the lease it holds."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from adapters.errors import PatchbayError
from adapters.versions import Version
from server.engine.protocol import Resident
from server.residency.residency import Lease


@dataclass(slots=True, eq=False)
class RequestContext:
    """The version that answers a request, and the lease that keeps it resident.

    vLLM handles a request in tasks of its own; they inherit the context variable and so share this object.
    """

    model: str | None = None
    """The request's ``model`` as the caller wrote it, once it is resolved to an adapter."""
    version: Version | None = None
    """The version that ``model`` resolved to; also set where that version could not be made resident."""
    lease: Lease | None = None
    leave: Callable[[], None] | None = None
    """Takes the request out of the adapter's count of requests in flight."""
    cold_s: float = 0.0
    """Seconds that the request waited for its adapter to become resident."""
    refusal: PatchbayError | None = None
    """The error that the gateway answers with, whatever response the engine makes of it."""
    status: int | None = None
    """Status code of the response, once it has started."""

    def resident_for(self, model: str) -> Resident | None:
        """Return the resident that ``model`` resolved to in this request; None before it was resolved."""
        return self.lease.resident if self.lease is not None and self.model == model else None

    def close(self) -> None:
        """Release the lease and the place among the requests in flight."""
        if self.leave is not None:
            self.leave()
        if self.lease is not None:
            self.lease.release()


current_request: ContextVar[RequestContext] = ContextVar("current_request")
