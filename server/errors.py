"""What can go wrong while serving: the server's branches of the tree in ``adapters.errors``.

PatchbayError
├── Unauthenticated     no key, or one we do not know
├── Forbidden           a key without the scope that the route needs
├── Unavailable         try again soon; carries ``retry_after_s``
│   ├── EngineNotReady  starting, or being rebuilt after a death
│   ├── Draining        the process is about to stop
│   ├── ResidencyFull          every resident is in use and stays so
│   └── Overloaded      more requests at once than the server admits
├── AdapterQuarantined  a version under which the engine computed NaN
├── InvalidRequest      a field of a control request is wrong
├── MissingScope        a key to be created without any scope
└── RouteUnsupported    the base model cannot do what this route is for
"""

from __future__ import annotations

from adapters.errors import PatchbayError


class Unauthenticated(PatchbayError):
    """No key, or one we do not know."""

    code = "invalid_api_key"


class Forbidden(PatchbayError):
    """The key lacks the scope that the route needs."""

    code = "insufficient_scope"


class Unavailable(PatchbayError):
    """Not now; ``retry_after_s`` says when to try again."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineNotReady(Unavailable):
    """The engine is starting, or being rebuilt after a death."""

    code = "engine_not_ready"


class Draining(Unavailable):
    """The process finishes what it has and takes nothing new."""

    code = "draining"


class ResidencyFull(Unavailable):
    """Every resident is in use, and none was released in time."""

    code = "no_room"


class Overloaded(Unavailable):
    """More requests at once than the server admits."""

    code = "overloaded"


class AdapterQuarantined(PatchbayError):
    """The engine computed NaN under this version: nobody is sent there any more."""

    code = "adapter_quarantined"


class InvalidRequest(PatchbayError):
    """A field of a control request is wrong."""

    code = "invalid_request"


class MissingScope(PatchbayError):
    """A key to be created without any scope."""

    code = "missing_scope"


class RouteUnsupported(PatchbayError):
    """The base model cannot do what this route is for."""

    code = "unsupported_by_base"
