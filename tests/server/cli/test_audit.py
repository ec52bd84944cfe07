"""``patchbay audit`` against a server."""

from __future__ import annotations

import json

from sqlalchemy import update

from server.accounts.schema import audit_rows
from tests.server.cli.conftest import Patchbay, Running


def test_audit_lists_the_newest_write_first(call: Patchbay) -> None:
    lines = call("audit", "list").stdout.splitlines()
    assert "POST /v1/adapters/{name}/versions" in lines[1]
    assert "name=sql" in lines[1]
    assert len(lines) == 1 + 3


def test_audit_verify_names_the_first_changed_row(server: Running, call: Patchbay) -> None:
    assert call("audit", "verify").stdout.startswith("3 rows, whole; newest hash ")

    async def change() -> None:
        async with server.state.registry.database.write() as connection:
            await connection.execute(update(audit_rows).where(audit_rows.c.number == 2).values(key_id="other"))

    server.portal.call(change)
    result = call("audit", "verify")
    assert result.exit_code != 0
    assert "row 2 was changed" in result.stderr


def test_keys_that_the_command_line_writes_itself_have_rows(call: Patchbay, server: Running) -> None:
    database = ("--database-url", server.state.settings.database)
    secret = call("keys", "create", "ops", "--scope", "admin", *database).stdout.strip()
    call("keys", "list", *database)
    rows = json.loads(call("audit", "list", "--json", "--api-key", secret).stdout)["data"]
    assert rows[0]["action"] == "patchbay keys create"
    assert rows[0]["result"] == secret.split("_")[1]
    assert rows[1]["action"] == "POST /v1/adapters/{name}/versions"
