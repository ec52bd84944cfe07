"""One inference request on its way through the server: what it asked for, what it got, what it holds."""

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
    """The one decision about ``model``, and the lease that makes it last.

    vLLM reads a request in tasks of its own; they inherit the context variable and so share this object.
    """

    model: str | None = None
    """What the caller wrote, once an adapter was decided on."""
    version: Version | None = None
    """What it means; also when that could not be made resident."""
    lease: Lease | None = None
    leave: Callable[[], None] | None = None
    """Gives the adapter's place among the requests in flight back."""
    cold_s: float = 0.0
    """How long the request waited for its adapter to become resident."""
    refusal: PatchbayError | None = None
    """Why the request is refused; the gateway answers with it whatever the engine made of it."""
    status: int | None = None
    """Of the response, once it has begun."""

    def chosen(self, model: str) -> Resident | None:
        """Return the resident decided on for ``model``."""
        return self.lease.resident if self.lease is not None and self.model == model else None

    def close(self) -> None:
        """Give back what the request holds."""
        if self.leave is not None:
            self.leave()
        if self.lease is not None:
            self.lease.release()


current_exchange: ContextVar[RequestContext] = ContextVar("exchange")
