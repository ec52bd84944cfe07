"""What a project may store and keep resident, and what a key or a project may train a day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from adapters.names import DEFAULT_PROJECT
from adapters.registry.catalog import Catalog
from adapters.versions import Version
from server.access.caller import Caller
from server.accounts.limit_store import LimitStore
from server.accounts.usage import UsageLedger
from server.errors import QuotaExceeded
from server.residency.capacity import ProjectBytes
from trainer.evals.run_store import EvalRunStore
from trainer.files.file_store import FileStore

_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Quotas:
    """Compares what is used with the limits. Accounts without limits cost a look-up."""

    limits: LimitStore
    usage: UsageLedger
    catalog: Catalog
    files: FileStore
    eval_runs: EvalRunStore

    async def check_stored(self, project: str, adding: int = 0) -> None:
        """Check that ``project`` may store ``adding`` bytes more.

        Checked before a body is read, as far as its size is stated, and with the size itself before it is stored; what
        other requests are storing at this moment is not counted. Checkpoints and results of jobs are never refused:
        they count once they are stored.

        Raises:
            QuotaExceeded: it may not.
        """
        limit = self.limits.of_project(project).stored_bytes
        if limit is None:
            return
        stored = self.catalog.stored_bytes(project) + await self.files.stored_bytes(project)
        stored += await self.eval_runs.stored_bytes(project)
        if stored + max(adding, 1) > limit:
            more = f" and {adding} more would be stored" if adding else ""
            raise QuotaExceeded(
                f"project '{project}' may store {limit} bytes of adapters, files and evals' items; it has "
                f"{stored}{more}: delete versions, files or runs of evals, or ask an operator for a larger "
                "stored_bytes (PUT /v1/limits)"
            )

    def project_bytes(self, version: Version) -> ProjectBytes:
        """Return the project of ``version``, and how many bytes its residents may have."""
        adapter = self.catalog.get(version.adapter)
        project = DEFAULT_PROJECT if adapter is None else adapter.project  # None: deleted meanwhile
        return ProjectBytes(project, self.limits.of_project(project).resident_bytes)

    async def check_training(self, key_id: str | None, project: str) -> None:
        """Check that a key and a project may train on today.

        Raises:
            QuotaExceeded: one of them has used its minutes of the day.
        """
        now = datetime.now(UTC)
        for account in self.limits.of(key_id, project):
            minutes = account.limits.training_minutes_per_day
            if minutes is None:
                continue
            used_s = await self.usage.trained_seconds(now.date(), account.kind, account.id)
            if used_s >= minutes * _MINUTE_S:
                raise QuotaExceeded(
                    f"{account.named} has used its {minutes} minutes of training of this day (UTC): go on tomorrow, "
                    "or ask an operator for a larger training_minutes_per_day (PUT /v1/limits)",
                    retry_after_s=_seconds_to_midnight(now),
                )

    async def check_job(self, caller: Caller) -> None:
        """Check that ``caller`` may create a job, which trains and stores; raises as the other checks."""
        await self.check_stored(caller.project)
        await self.check_training(caller.key_id, caller.project)


def _seconds_to_midnight(now: datetime) -> int:
    midnight = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
    return max(1, round((midnight - now).total_seconds()))
