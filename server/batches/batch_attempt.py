"""The work on one batch under one claim: check its input, send its lines, write its result files.

The claim is renewed meanwhile. A renewal shows that the caller has cancelled the batch, or that its time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

import structlog

from server.batches.batch import InputFault, RequestBatch
from server.batches.batch_store import INPUT, BatchClaim, BatchStore, faults_as_json
from server.batches.input_file import InputFile
from server.batches.line_client import AccessDenied, LineClient, unanswered
from server.batches.result_log import ResultLog
from server.batches.state import BatchState, BatchVerb
from trainer.errors import LeaseLost
from trainer.files.file import Purpose
from trainer.files.file_store import EXPIRY_S

log = structlog.get_logger(__name__)

RENEW_S: Final = 1.0
"""Interval of renewals: how soon a cancellation is seen, and how old the counts are."""

_CANCELLED: Final = ("batch_cancelled", "the batch was cancelled before this request was sent")
_EXPIRED: Final = ("batch_expired", "the request was not sent before the batch's completion window was over")


class ServerChecks(Protocol):
    """Checks of a batch against the running server."""

    async def catch_up(self) -> None:
        """Take in the models that other servers have published; without effect while the database is away."""

    def endpoint_fault(self, endpoint: str) -> str | None:
        """Return the reason why the base model does not answer ``endpoint``; None if it does.

        Raises:
            EngineNotReady: no engine runs at present.
        """

    def model_fault(self, model: str, endpoint: str, key_id: str | None) -> str | None:
        """Return the reason why the key with that id cannot call ``model`` at ``endpoint``; None if it can."""


@dataclass(slots=True, eq=False)
class BatchAttempt:
    """Works on the batch of ``claim``.

    Args:
        checks: checks the endpoint and the models that the lines name, once the engine runs.
    """

    store: BatchStore
    claim: BatchClaim
    client: LineClient
    checks: ServerChecks
    results: ResultLog | None = None
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _is_over: bool = False
    """True once the batch's time is over."""

    async def work(self) -> None:
        """Work until the batch has ended.

        Raises:
            LeaseLost: another process has taken the batch; in an ExceptionGroup.
        """
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(self._renew())
            await self._work()
            renewing.cancel()

    async def _work(self) -> None:
        batch = self.claim.batch
        try:
            lines = await InputFile.open(self.store.directory_of(batch) / INPUT)
        except FileNotFoundError:
            fault = InputFault("input_lost", "the server has lost the batch's input: create the batch again")
            lines = InputFile(self.store.directory_of(batch) / INPUT, [])
            await self._fail(batch, [fault])
            return
        if batch.state is BatchState.VALIDATING and not await self._accept(lines):
            return
        self.results = await ResultLog.open(self.store.directory_of(batch), self.claim.token)
        if batch.state in {BatchState.VALIDATING, BatchState.IN_PROGRESS}:
            await self._send(lines, self.results)
        await self._finish(lines, self.results)

    async def _renew(self) -> None:
        while True:
            completed, failed = self._counts()
            batch, self._is_over = await self.store.renew(self.claim, completed=completed, failed=failed)
            if batch.state is BatchState.CANCELLING or self._is_over:
                self._stopped.set()
            await asyncio.sleep(RENEW_S)

    def _counts(self) -> tuple[int, int]:
        if self.results is None:
            return self.claim.batch.completed, self.claim.batch.failed
        return self.results.completed, self.results.failed

    async def _accept(self, lines: InputFile) -> bool:
        """Check the input; return whether the batch goes on. One that was cancelled meanwhile goes on to its end."""
        endpoint = self.claim.batch.endpoint
        await self.checks.catch_up()
        model_fault = partial(self.checks.model_fault, endpoint=endpoint, key_id=self.claim.batch.key_id)
        faults, models = await lines.faults(endpoint, model_fault)
        if (message := self.checks.endpoint_fault(endpoint)) is not None:
            faults.insert(0, InputFault("unsupported_endpoint", message, param="endpoint"))
        if faults:
            await self._fail(self.claim.batch, faults, total=len(lines))
            return False
        model = next(iter(models)) if len(models) == 1 else None
        await self.store.move(self.claim, BatchVerb.ACCEPT, total=len(lines), model=model)
        return True

    async def _fail(self, batch: RequestBatch, faults: list[InputFault], **values: Any) -> None:
        """End a batch whose input cannot be sent, or that was cancelled before it was found so."""
        errors = faults_as_json(faults)
        if await self.store.move(self.claim, BatchVerb.REJECT, errors=errors, **values) is None:
            await self.store.move(self.claim, BatchVerb.CANCEL, errors=errors)
            await self.store.move(self.claim, BatchVerb.END)
        await self.store.remove_directory(batch)

    async def _send(self, lines: InputFile, results: ResultLog) -> None:
        """Send the lines that have no result yet, until all have one or the batch is stopped."""
        sending = asyncio.ensure_future(self._send_all(lines, results))
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            was_done = sending.done()
            sending.cancel()
            stopping.cancel()
            await asyncio.gather(sending, stopping, return_exceptions=True)
        if not was_done:
            return
        try:
            sending.result()
        except* AccessDenied:
            log.warning("batch stopped: its key was revoked", batch=self.claim.batch.id)
            fault = InputFault("key_revoked", "the API key that created the batch was revoked")
            await self.store.move(self.claim, BatchVerb.CANCEL, errors=faults_as_json([fault]))

    async def _send_all(self, lines: InputFile, results: ResultLog) -> None:
        missing = (index for index in range(len(lines)) if index not in results)

        async def send_next() -> None:
            for index in missing:  # shared by all senders
                result = await self.client.answer(self.claim.batch.endpoint, await lines.line(index))
                await results.append(index, result.content, is_failed=result.is_failed)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.client.in_flight.lines, len(lines))):
                group.create_task(send_next())

    async def _finish(self, lines: InputFile, results: ResultLog) -> None:
        """Write the result files and end the batch."""
        batch = await self.store.get(self.claim.batch.id)
        if batch.in_progress_at is None:
            lines = InputFile(lines.path, [])  # cancelled before it was checked
        has_all = all(index in results for index in range(len(lines)))
        if batch.state is BatchState.IN_PROGRESS and (has_all or not self._is_over):
            batch = await self.store.move(self.claim, BatchVerb.FINISH) or await self.store.get(batch.id)
        verb, unsent = {
            BatchState.IN_PROGRESS: (BatchVerb.EXPIRE, _EXPIRED),
            BatchState.FINALIZING: (BatchVerb.COMPLETE, _EXPIRED),
            BatchState.CANCELLING: (BatchVerb.END, _CANCELLED),
        }[batch.state]
        output = await self._write(batch, "output", results.results(failed=False)) if results.completed else None
        errors = None
        if len(lines) > results.completed:
            errors = await self._write(batch, "error", _errors(lines, results, *unsent))
        completed, failed = self._counts()
        values = {"output_file_id": output, "error_file_id": errors, "completed": completed, "failed": failed}
        try:
            if await self.store.move(self.claim, verb, **values) is None:  # cancelled while the files were written
                await self.store.move(self.claim, BatchVerb.END, **values)
        except LeaseLost:
            for file_id in filter(None, (output, errors)):
                await self.store.files.delete(file_id)
            raise
        await self.store.remove_directory(batch)

    async def _write(self, batch: RequestBatch, kind: str, content: AsyncIterator[bytes]) -> str:
        expires_after_s = batch.output_expires_after_s or EXPIRY_S[-1]
        name = f"{batch.id}_{kind}.jsonl"
        file = await self.store.files.create(
            Purpose.BATCH_OUTPUT, name, content, expires_after_s=expires_after_s, project=batch.project
        )
        return file.id


async def _errors(lines: InputFile, results: ResultLog, code: str, message: str) -> AsyncIterator[bytes]:
    """Yield the error file: the lines that failed, and those that were not sent."""
    async for content in results.results(failed=True):
        yield content
    for index in range(len(lines)):
        if index not in results:
            yield unanswered((await lines.line(index)).custom_id, code, message)
