"""The parts of accounts that a server has, opened together."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.storage.database import Database
from server.access.caller import Caller
from server.accounts.audit_log import AuditLog
from server.accounts.idempotency import KeptAnswers
from server.accounts.limit_store import LimitStore
from server.accounts.limits import Defaults
from server.accounts.rate_limits import RateLimits
from server.accounts.usage import UsageLedger
from server.engine.protocol import Generation


@dataclass(frozen=True, slots=True)
class Accounts:
    """Limits, usage, the audit log, and answers for repeated requests."""

    audit_log: AuditLog
    answers: KeptAnswers
    usage: UsageLedger
    limits: LimitStore
    rate_limits: RateLimits

    @classmethod
    async def open(cls, database: Database, defaults: Defaults) -> Accounts:
        """Migrate the tables in ``database`` and open the parts; the caller closes the database.

        ``defaults``: limits of keys and projects where nothing else is stored.
        """
        audit_log = await AuditLog.open(database)
        limits = LimitStore(database, defaults)
        await limits.refresh()
        return cls(audit_log, KeptAnswers(database), UsageLedger(database), limits, RateLimits(limits))

    async def charge(self, caller: Caller, adapter: str | None, generation: Generation) -> None:
        """Count the tokens of a generation that has ended. ``adapter`` None: the base model."""
        counts = self.usage.counts(caller, adapter)
        counts.prompt_tokens += generation.prompt_tokens
        counts.completion_tokens += generation.generated_tokens
        counts.cached_tokens += generation.cached_tokens
        await self.rate_limits.charge(caller, generation.prompt_tokens + generation.generated_tokens)
