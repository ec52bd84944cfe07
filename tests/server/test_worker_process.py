"""The worker beside a server: it trains nothing that the server would not let it publish."""

from __future__ import annotations

import httpx
import pytest

from server.access.scope import ALL_SCOPES, Scope
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
