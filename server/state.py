"""The parts of one running server as a value. What needs several parts is in ``server.operations``."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapters.publisher import Publisher
from adapters.registry.registry import Registry
from adapters.storage.blobs import Blobs
from server.access.key_ring import KeyRing
from server.accounts.accounts import Accounts
from server.batches.batch_store import BatchStore
from server.current_engine import CurrentEngine
from server.gateway.admission import Admission
from server.gateway.request_hooks import RequestHooks
from server.http.body_reader import BodyReader
from server.metrics import Metrics
from server.residency.quarantine import Quarantine
from server.responses.response_store import ResponseStore
from server.settings import Settings
from server.supervisor import Supervisor
from trainer.graders.grader_processes import GraderProcesses
from trainer.job_preflight import JobPreflight
from trainer.records import Records

if TYPE_CHECKING:
    from server.access.token_issuer import TokenIssuer  # needs an extra


@dataclass(frozen=True, slots=True)
class AppState:
    """The parts of one running server; a process may hold several servers."""

    settings: Settings
    registry: Registry
    blobs: Blobs
    publisher: Publisher
    keys: KeyRing
    issuer: TokenIssuer | None
    metrics: Metrics
    admission: Admission
    bodies: BodyReader
    hooks: RequestHooks
    engine: CurrentEngine
    supervisor: Supervisor
    quarantine: Quarantine
    records: Records
    job_preflight: JobPreflight
    batches: BatchStore
    responses: ResponseStore
    accounts: Accounts
    graders: GraderProcesses
    pinning: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from the check of the pins to the write of one: several at once would exceed the capacity."""
    started_at: int = field(default_factory=lambda: int(time.time()))
    """Unix time in seconds."""
