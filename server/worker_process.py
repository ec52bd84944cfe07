"""``patchbay worker``: runs jobs in a process of its own, beside the server that publishes their results.

It shares the server's database and data directory, and requests each publication over HTTP.
"""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import Final

import httpx
import structlog

from adapters.errors import StorageUnavailable, WorkerProcessDied
from adapters.storage.database import Database
from server.logs import configure_logs
from server.settings import OWN_FILES, ClientSettings, Settings
from trainer.errors import PublicationRefused
from trainer.policy_sampling import PolicyAnswers, PolicyRequest
from trainer.records import Records
from trainer.worker.worker import Worker, worker_name

log = structlog.get_logger(__name__)

RETRY_S: Final = 1.0
_ADMIN_ROUTE: Final = "/v1/limits"
"""A route that needs the scope that publishing needs."""
_CONNECT_S: Final = 10.0
_JSON: Final = {"content-type": "application/json"}
_AWAY: Final = frozenset(
    {
        httpx.codes.TOO_MANY_REQUESTS,
        httpx.codes.BAD_GATEWAY,
        httpx.codes.SERVICE_UNAVAILABLE,
        httpx.codes.GATEWAY_TIMEOUT,
        httpx.codes.INSUFFICIENT_STORAGE,
    }
)


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """The server behind ``http``, which publishes and draws answers for runs; waits while it is away.

    See ``attempt.Publishing`` and ``trainer.policy_sampling.PolicySampling``.
    """

    http: httpx.AsyncClient

    async def checkpoint(self, job_id: str, step: int, claim: int) -> str:
        return await self._publish(f"/v1/fine_tuning/jobs/{job_id}/checkpoints/{step}/publish?claim={claim}")

    async def result(self, job_id: str, claim: int) -> str:
        return await self._publish(f"/v1/fine_tuning/jobs/{job_id}/publish?claim={claim}")

    async def sample(self, job_id: str, request: PolicyRequest, claim: int) -> PolicyAnswers:
        content, path = request.model_dump_json().encode(), f"/v1/fine_tuning/jobs/{job_id}/policy_answers"
        response = await self._answered("POST", f"{path}?claim={claim}", content)
        if response.is_error:
            return PolicyAnswers(refusal=response.json()["error"]["message"])
        return PolicyAnswers.model_validate_json(response.content)

    async def check_key(self) -> None:
        """Wait for the server; PublicationRefused if its key may not publish the results of all projects' jobs."""
        if (await self._answered("GET", _ADMIN_ROUTE)).status_code in {401, 403}:
            raise PublicationRefused(
                "this worker runs the jobs of all projects, and its key may not publish what they make: give "
                "--api-key a key with the scope admin"
            )

    async def base_fingerprint(self) -> str:
        """Wait until the server's base model is known; return its fingerprint."""
        while (status := (await self._answered("GET", "/v1/status")).json())["base_fingerprint"] is None:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(RETRY_S)
        return str(status["base_fingerprint"])

    async def _publish(self, path: str) -> str:
        response = await self._answered("POST", path)
        if response.is_error:
            error = response.json()["error"]
            if error["code"] == WorkerProcessDied.code:  # may pass: the attempt tries again
                raise WorkerProcessDied(error["message"], log="")
            raise PublicationRefused(error["message"])
        return str(response.json()["id"])

    async def _answered(self, method: str, path: str, content: bytes | None = None) -> httpx.Response:
        """Return the response to a request, repeated while the server is away, or something else answers for it."""
        while True:
            try:
                response = await self.http.request(method, path, content=content, headers=_JSON)
            except httpx.TransportError as away:
                log.warning("the server is away", url=str(self.http.base_url), reason=str(away))
            else:
                if response.status_code not in _AWAY and _is_servers(response):
                    return response
                log.warning("the server does not answer yet", url=str(response.url), status=response.status_code)
            await asyncio.sleep(RETRY_S)


def _is_servers(response: httpx.Response) -> bool:
    """Whether the server itself made ``response``: a proxy before it answers with pages, or errors of other forms."""
    try:
        content = response.json()
    except ValueError:
        return False
    if not isinstance(content, dict) or response.is_success:
        return isinstance(content, dict)
    error = content.get("error")
    return isinstance(error, dict) and {"code", "message"} <= error.keys()


def work(settings: Settings, server: ClientSettings) -> int:
    """Run jobs until SIGTERM or SIGINT; return the exit code.

    Raises:
        PublicationRefused: the server would not publish what the jobs make.
    """
    os.umask(OWN_FILES)
    configure_logs(settings.log_format, settings.log_level)
    return asyncio.run(_work(settings, server))


async def _work(settings: Settings, server: ClientSettings) -> int:
    headers = {} if server.api_key is None else {"Authorization": f"Bearer {server.api_key}"}
    timeout = httpx.Timeout(None, connect=_CONNECT_S)  # seconds; a publication has no bound
    async with (
        Database.open(settings.database) as database,
        httpx.AsyncClient(base_url=server.base_url, headers=headers, timeout=timeout) as http,
    ):
        records = await _open_records(database, settings)
        server_side = RemoteServer(http)
        worker = Worker(
            records, settings.runs_dir, server_side, server_side, worker_name(), server_side.base_fingerprint
        )
        working = asyncio.create_task(_work_once_allowed(worker, server_side))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, working.cancel)
        log.info("waiting for jobs", server=server.base_url, data_dir=str(settings.data_dir.absolute()))
        with contextlib.suppress(asyncio.CancelledError):
            await working
    return 0


async def _open_records(database: Database, settings: Settings) -> Records:
    """Open the records once the database answers."""
    while True:
        try:
            return await Records.open(database, settings.training_dir, max_file_bytes=settings.max_file_bytes)
        except StorageUnavailable as away:
            log.warning("the worker waits for the database", reason=away.message)
            await asyncio.sleep(RETRY_S)


async def _work_once_allowed(worker: Worker, server: RemoteServer) -> None:
    await server.check_key()
    await worker.run()
