"""What can go wrong while serving: the server's branches of the tree in ``adapters.errors``.

PatchbayError
├── Unauthenticated
│   └── InvalidToken
├── Forbidden
│   └── AdapterShared, TokenWithoutProject, ApiKeyNeeded
├── Unavailable
│   └── IssuerUnavailable, EngineNotReady, Draining, ResidencyFull, Overloaded, RateLimited
├── QuotaExceeded
├── AdapterQuarantined, RequestRefused, RequestTimeout, InvalidRequest, MissingScope, RouteUnsupported
├── BodyTooLarge, BodyTooSlow
├── BackgroundUnsupported, PreviousResponseNotFound
├── (NotFound)
│   └── BatchNotFound, ResponseNotFound
├── IdempotencyKeyReused
└── (Conflict)
    └── IdempotencyKeyInUse
"""

from collections.abc import Mapping
from types import MappingProxyType

from adapters.errors import Conflict, NotFound, PatchbayError


class Unauthenticated(PatchbayError):
    """No key, or one we do not know."""

    code = "invalid_api_key"


class InvalidToken(Unauthenticated):
    """A bearer token that is not one of the issuer for this server, or has expired."""


class Forbidden(PatchbayError):
    """The key or token lacks the scope that the route needs, or the request comes from a place that may not send it."""

    code = "insufficient_scope"


class AdapterShared(Forbidden):
    """The adapter is another project's, which lets the caller use and read it, not change it."""

    code = "adapter_is_shared"

    def __init__(self, name: str) -> None:
        super().__init__(f"adapter '{name}' is shared with the caller's project to be used and read, not changed")


class TokenWithoutProject(Forbidden):
    """A bearer token does not state the project of its caller."""


class ApiKeyNeeded(Forbidden):
    """The work goes on in the caller's name when a bearer token has long expired."""


class Unavailable(PatchbayError):
    """Not now; ``retry_after_s`` says when to try again."""

    is_passing = True

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class IssuerUnavailable(Unavailable):
    """The keys of the issuer of bearer tokens are not known."""


class EngineNotReady(Unavailable):
    """The engine is starting, or being rebuilt after a death."""


class Draining(Unavailable):
    """The process finishes what it has and takes nothing new."""


class ResidencyFull(Unavailable):
    """Every resident is in use, and none was released in time."""

    code = "no_room"


class Overloaded(Unavailable):
    """More requests at once than the server admits."""


class RateLimited(Unavailable):
    """A limit of the caller's key or project is reached; ``headers`` says how much is left, and until when."""

    code = "rate_limit_exceeded"

    def __init__(
        self, message: str, *, retry_after_s: int = 1, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.headers = headers


class QuotaExceeded(PatchbayError):
    """What the caller's key or project may store, or train a day, is used up. The code is OpenAI's.

    ``retry_after_s``: an hour where a caller has to delete something first.
    """

    code = "insufficient_quota"

    def __init__(self, message: str, *, retry_after_s: int = 3600) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.headers = {"x-should-retry": "false"}  # OpenAI's clients would send the request again, twice


class AdapterQuarantined(PatchbayError):
    """The version harmed the engine: requests for it are refused."""


class RequestTimeout(PatchbayError):
    """A request was not answered whole within the server's bound."""


class RequestRefused(PatchbayError):
    """The engine died twice while it computed this very request."""


class InvalidRequest(PatchbayError):
    """A field of a control request is wrong."""


class BodyTooLarge(PatchbayError):
    """A request's body has more bytes than the server reads."""


class BodyTooSlow(PatchbayError):
    """A request's body did not arrive in time."""


class MissingScope(PatchbayError):
    """A key to be created without any scope."""


class RouteUnsupported(PatchbayError):
    """The base model cannot do what this route is for."""

    code = "unsupported_by_base"


class BatchNotFound(NotFound):
    """No batch has this id."""


class ResponseNotFound(NotFound):
    """No response with this id is stored for the caller's project."""


class PreviousResponseNotFound(PatchbayError):
    """The response that a request goes on from is not stored; OpenAI answers this with 400."""


class BackgroundUnsupported(PatchbayError):
    """A response is asked for that outlives its request."""


class IdempotencyKeyInUse(Conflict):
    """The first request with this idempotency key is not answered yet."""


class IdempotencyKeyReused(PatchbayError):
    """The first request with this idempotency key was another one."""
