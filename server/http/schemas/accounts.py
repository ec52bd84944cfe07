"""Limits, usage and the audit log in requests and responses."""

from datetime import date
from typing import Any, Literal

from server.accounts.limits import LimitedKind, Limits
from server.http.schemas.base import ResponseObject, UnixTime


class AuditObject(ResponseObject):
    """One write of the control plane. Texts are empty where the write has no such part."""

    object: Literal["audit.row"] = "audit.row"
    number: int
    at: UnixTime
    key_id: str
    project: str
    address: str
    action: str
    parameters: dict[str, Any]
    status: int
    result: str
    request_id: str
    hash: str


class AuditList(ResponseObject):
    """Rows of the audit log, newest first; send ``last_number`` as ``after`` to get the rows before."""

    object: Literal["list"] = "list"
    data: list[AuditObject]
    last_number: int | None
    has_more: bool


class AuditVerification(ResponseObject):
    """The result of walking the chain of hashes."""

    object: Literal["audit.verification"] = "audit.verification"
    rows: int
    """Rows that are as they were written, from the first one on."""
    hash: str
    """Hash of the last of them."""
    broken: int | None
    """Number of the first row that was changed or is missing; null: the chain is whole."""


class UsageObject(ResponseObject):
    """The usage of one day (UTC), key, project and adapter. ``key_id`` is empty for callers without a key."""

    object: Literal["usage"] = "usage"
    day: date
    key_id: str
    project: str
    adapter: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    training_tokens: int
    training_seconds: float


class UsageList(ResponseObject):
    """Usage, oldest day first."""

    object: Literal["list"] = "list"
    data: list[UsageObject]
    has_more: bool
    """Whether rows were left out: ask for fewer days."""


class AccountObject(ResponseObject):
    """A key or a project with its limits; null: no limit."""

    object: Literal["limits"] = "limits"
    kind: LimitedKind
    id: str
    limits: Limits


class AccountList(ResponseObject):
    """The keys and projects that have limits of their own."""

    object: Literal["list"] = "list"
    data: list[AccountObject]
    has_more: Literal[False] = False
