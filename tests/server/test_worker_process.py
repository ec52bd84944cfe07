"""The worker beside a server: it trains nothing that the server would not let it publish."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from adapters.errors import StorageUnavailable, WorkerProcessDied
from adapters.storage.database import Database
from server import worker_process
from server.access.scope import ALL_SCOPES, Scope
from server.settings import Settings
from server.worker_process import RemoteServer
from tests.server.opened import Opened
from trainer.errors import PublicationRefused


async def test_a_worker_needs_a_key_that_may_publish_for_all_projects(
    opened: Opened, client: httpx.AsyncClient
) -> None:
    publishing = RemoteServer(client)
    await publishing.check_key()  # a server without keys lets everybody do everything
    for scopes, is_enough in (([Scope.ADMIN], True), (ALL_SCOPES - {Scope.ADMIN}, False)):
        _, secret = await opened.state.keys.create("worker", scopes)
        client.headers["Authorization"] = f"Bearer {secret}"
        if is_enough:
            await publishing.check_key()
        else:
            with pytest.raises(PublicationRefused, match="a key with the scope admin"):
                await publishing.check_key()


async def test_a_tenant_publishes_no_run_directory(opened: Opened, client: httpx.AsyncClient) -> None:
    _, secret = await opened.state.keys.create("acme", [Scope.TRAINING], project="acme")
    for path in ("publish", "checkpoints/1/publish"):
        headers = {"Authorization": f"Bearer {secret}"}
        refused = await client.post(f"/v1/fine_tuning/jobs/ftjob-1/{path}", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_scope")


async def test_trouble_at_the_server_that_can_pass_refuses_no_publication(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "RETRY_S", 0.0)
    died = {"error": {"message": "a process ended", "code": "compiler_died"}}
    refused = {"error": {"message": "rank 8", "code": "adapter_refused"}}
    answers = iter([(503, {}), (504, {}), (507, {}), (500, died), (200, {"id": "ft:base"}), (400, refused)])

    def answer(_: httpx.Request) -> httpx.Response:
        status, body = next(answers)
        return httpx.Response(status, json=body)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://server") as http:
        publishing = RemoteServer(http)
        with pytest.raises(WorkerProcessDied) as trouble:  # the attempt counts these, and tries again
            await publishing.result("ftjob-1", 1)
        assert trouble.value.is_passing
        assert await publishing.result("ftjob-1", 1) == "ft:base"
        with pytest.raises(PublicationRefused, match="rank 8"):
            await publishing.result("ftjob-1", 1)


async def test_an_answer_that_is_not_the_servers_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a proxy gives them while the server behind it restarts."""
    monkeypatch.setattr(worker_process, "RETRY_S", 0.0)
    answers = iter(
        [
            httpx.Response(200, html="<h1>back soon</h1>"),
            httpx.Response(404, html="<h1>no such host</h1>"),
            httpx.Response(302, headers={"location": "/login"}),
            httpx.Response(403, json={"message": "forbidden"}),
            httpx.Response(400, json={"error": "bad gateway"}),
            httpx.Response(200, json=[]),
            httpx.Response(200, json={"id": "ft:base"}),
        ]
    )
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: next(answers)), base_url="http://server"
    ) as http:
        assert await RemoteServer(http).result("ftjob-1", 1) == "ft:base"
    assert list(answers) == []


async def test_a_worker_waits_for_its_database(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "RETRY_S", 0.0)
    migrate, refusals = Database.migrate, iter(range(2))

    async def migrate_later(self: Database, versions: Path, version_table: str) -> None:
        if next(refusals, None) is not None:
            raise StorageUnavailable("the database is away")
        await migrate(self, versions, version_table)

    monkeypatch.setattr(Database, "migrate", migrate_later)
    async with Database.open(database_url) as database:
        records = await worker_process._open_records(database, Settings(data_dir=tmp_path))
        assert await records.queue.take("worker", 60.0) is None
