"""One inference request on its way through the house: what it asked for, what it got, what it holds."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

from adapters.errors import PatchbayError
from adapters.versions import Version
from server.engine.engine import Resident
from server.residency.residency import Lease


@dataclass(slots=True, eq=False)
class Exchange:
    """The one decision about ``model``, made at most once a name, and the leases that make it last.

    vLLM reads a request in tasks of its own; they inherit the context variable and so share this object.
    """

    leases: dict[str, Lease] = field(default_factory=dict)
    refusal: PatchbayError | None = None
    """Why the request is refused; the gateway answers with it whatever the engine made of it."""

    status: int | None = None
    """Of the response, once it has begun."""

    def chosen(self, model: str) -> Resident | None:
        """Return the resident decided on for ``model``."""
        lease = self.leases.get(model)
        return None if lease is None else lease.resident

    @property
    def version(self) -> Version | None:
        """The version that answers, if an adapter does."""
        return next((lease.version for lease in self.leases.values()), None)

    def close(self) -> None:
        """Give every lease back."""
        for lease in self.leases.values():
            lease.release()


current_exchange: ContextVar[Exchange] = ContextVar("exchange")
