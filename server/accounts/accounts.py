"""The parts of accounts that a server has, opened together."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.registry.registry import Registry
from server.access.caller import Caller
from server.accounts.audit_log import AuditLog
from server.accounts.idempotency import KeptAnswers
from server.accounts.limit_store import LimitStore
from server.accounts.limits import Defaults
from server.accounts.quotas import Quotas
from server.accounts.rate_limits import RateLimits
from server.accounts.usage import UsageLedger
from server.engine.protocol import Generation
from trainer.evals.run_store import EvalRunStore
from trainer.files.file_store import FileStore


@dataclass(frozen=True, slots=True)
class Accounts:
    """Limits and quotas, usage, the audit log, and answers for repeated requests."""

    audit_log: AuditLog
    answers: KeptAnswers
    usage: UsageLedger
    limits: LimitStore
    rate_limits: RateLimits
    quotas: Quotas

    @classmethod
    async def open(cls, registry: Registry, files: FileStore, defaults: Defaults) -> Accounts:
        """Migrate the tables in the registry's database and open the parts; the caller closes the registry.

        ``defaults``: limits of keys and projects where nothing else is stored.
        """
        database = registry.database
        audit_log = await AuditLog.open(database)
        limits = LimitStore(database, defaults)
        await limits.refresh()
        usage = UsageLedger(database)
        quotas = Quotas(limits, usage, registry.catalog, files, EvalRunStore(database))
        return cls(audit_log, KeptAnswers(database), usage, limits, RateLimits(limits), quotas)

    async def charge(self, caller: Caller, adapter: str | None, generation: Generation) -> None:
        """Count the tokens of a generation that has ended. ``adapter`` None: the base model."""
        counts = self.usage.counts(caller, adapter)
        counts.prompt_tokens += generation.prompt_tokens
        counts.completion_tokens += generation.generated_tokens
        counts.cached_tokens += generation.cached_tokens
        await self.rate_limits.charge(caller, generation.prompt_tokens + generation.generated_tokens)
