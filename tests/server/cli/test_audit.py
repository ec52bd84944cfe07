"""``patchbay audit`` against a server."""

from __future__ import annotations

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
