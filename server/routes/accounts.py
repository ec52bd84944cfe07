"""Limits, usage and the audit log."""

import csv
import io
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Header, Query, Response

from adapters.errors import InvalidName, NotFound
from server.access.caller import is_subject_id
from server.access.scope import Scope
from server.accounts.limits import LimitedKind, Limits
from server.csv_cells import csv_cell
from server.errors import InvalidRequest
from server.http.schemas.accounts import (
    AccountList,
    AccountObject,
    AuditList,
    AuditObject,
    AuditVerification,
    UsageList,
    UsageObject,
)
from server.http.schemas.base import DeletedObject
from server.routes.dependencies import DEFAULT_PAGE, CallerDep, PageLimit, StateDep

router = APIRouter(prefix="/v1", tags=["accounts"])

_CSV: Final = "text/csv"
_DAYS: Final = 30
_LONGEST_ID: Final = 128


@router.get("/usage", responses={200: {"content": {_CSV: {"schema": {"type": "string"}}}}}, response_model=UsageList)
async def usage(
    state: StateDep,
    caller: CallerDep,
    start: Annotated[date | None, Query(description="First day (UTC); without it, 30 days before the last.")] = None,
    end: Annotated[date | None, Query(description="Last day (UTC); without it, today.")] = None,
    key_id: str | None = None,
    project: str | None = None,
    adapter: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100_000, description="Rows, at most.")] = 10_000,
    format: Annotated[Literal["json", "csv"] | None, Query(description="Without it, by Accept.")] = None,  # noqa: A002
    accept: Annotated[str, Header()] = "",
) -> UsageList | Response:
    """Show requests and tokens per day, key, project and adapter. A key without the scope admin sees its own."""
    if not caller.may(Scope.ADMIN):
        key_id, project = caller.key_id, caller.project
    last = end or datetime.now(UTC).date()
    first = start or last - min(timedelta(days=_DAYS), last - date.min)
    ledger = state.accounts.usage
    await ledger.flush()
    found = await ledger.read(first, last, limit=limit + 1, key_id=key_id, project=project, adapter=adapter)
    rows = [UsageObject.model_validate(row) for row in found[:limit]]
    if format == "csv" or (format is None and accept.partition(",")[0].partition(";")[0].strip() == _CSV):
        return Response(_csv(rows), media_type=_CSV)
    return UsageList(data=rows, has_more=len(found) > limit)


@router.get("/limits")
async def list_limits(state: StateDep) -> AccountList:
    """List the keys and projects that have limits of their own."""
    return AccountList(data=[AccountObject.model_validate(account) for account in state.accounts.limits.list()])


@router.put("/limits/{kind}/{account_id}")
async def set_limits(kind: LimitedKind, account_id: str, body: Limits, state: StateDep) -> AccountObject:
    """Set the limits of a key, of the subject of bearer tokens (``oidc:…``) or of a project.

    A field that is left out has the server's default; null: no limit.
    """
    if kind == "key" and not is_subject_id(account_id) and state.keys.get(account_id) is None:
        raise NotFound(f"no key has the id '{account_id:.100}'; `patchbay keys list` shows them", param="account_id")
    if len(account_id) > _LONGEST_ID or not account_id.isprintable():
        raise InvalidName(f"a project's name has 1 to {_LONGEST_ID} printable characters", param="account_id")
    try:
        body.check_kind(kind)
    except ValueError as wrong:
        raise InvalidRequest(str(wrong), param="kind") from None
    return AccountObject.model_validate(await state.accounts.limits.set(kind, account_id, body))


@router.delete("/limits/{kind}/{account_id}")
async def remove_limits(kind: LimitedKind, account_id: str, state: StateDep) -> DeletedObject:
    """Remove the limits of a key or project: the server's defaults hold."""
    await state.accounts.limits.remove(kind, account_id)
    return DeletedObject(object="limits", id=account_id)


@router.get("/audit")
async def list_audit_rows(
    state: StateDep,
    after: Annotated[
        int | None, Query(ge=1, le=2**62, description="Number of the last row of the page before.")
    ] = None,
    limit: PageLimit = DEFAULT_PAGE,
) -> AuditList:
    """List the writes of the control plane, newest first."""
    rows, has_more = await state.accounts.audit_log.list(after=after, limit=limit)
    data = [AuditObject.model_validate(row) for row in rows]
    return AuditList(data=data, last_number=rows[-1].number if rows else None, has_more=has_more)


@router.get("/audit/verification")
async def verify_audit_log(state: StateDep) -> AuditVerification:
    """Compute the hashes of the audit log anew; name the first row that was changed or is missing."""
    return AuditVerification.model_validate(await state.accounts.audit_log.verify())


def _csv(rows: list[UsageObject]) -> str:
    names = [name for name in UsageObject.model_fields if name != "object"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.model_dump().items()} for row in rows)
    return text.getvalue()
