"""Connections to PostgreSQL that wait for a bounded time: a server that hangs is noticed as one that is gone."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Final, TypeVar

import structlog
from psycopg import AsyncConnection, OperationalError
from psycopg.abc import PQGen
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncConnection as Transaction

log = structlog.get_logger(__name__)

CONNECT_S: Final = 5
LOCK_S: Final = 5
"""Seconds that a statement waits for another transaction's lock."""
STATEMENT_S: Final = 10
ANSWER_S: Final = 12.0
"""Seconds without an answer after which a connection is closed: the server itself has ended a statement before."""
IDLE_S: Final = 30
"""Seconds after which the server ends the transaction of a client that has vanished, with its locks."""
MIGRATION_S: Final = 3600

_Result = TypeVar("_Result")


class BoundedConnection(AsyncConnection[Any]):
    """A connection that is closed when the server does not answer within ``answer_s`` seconds."""

    answer_s = ANSWER_S

    async def wait(self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None) -> _Result:  # noqa: ASYNC109 - psycopg's
        bound, started = self.answer_s if timeout is None else min(timeout, self.answer_s), monotonic()
        try:
            return await super().wait(gen, interval, bound)
        except OperationalError as failed:
            if self.closed or monotonic() - started < bound:
                raise
            self.pgconn.finish()
            raise OperationalError(f"no answer within {bound:g} s") from failed


async def connect(*arguments: Any, **fields: Any) -> BoundedConnection:
    """Connect. An error does not name the server, because callers of the API see it; the log does."""
    try:
        return await BoundedConnection.connect(*arguments, **fields)
    except OperationalError as failed:
        log.warning("database.no_connection", reason=str(failed).strip())
        raise OperationalError("no connection to it can be made") from failed


def connect_args(url: URL) -> Mapping[str, Any]:
    """Return the arguments of each connection to ``url``; what its query sets has its value from there.

    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
    """
    milliseconds = {
        "statement_timeout": STATEMENT_S * 1000,
        "lock_timeout": LOCK_S * 1000,
        "idle_in_transaction_session_timeout": IDLE_S * 1000,
    }
    defaults = {
        "application_name": "patchbay",
        "connect_timeout": CONNECT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": int(ANSWER_S * 1000),
        "options": " ".join(f"-c {name}={value}" for name, value in milliseconds.items()),
    }
    chosen = {name: value for name, value in defaults.items() if name not in url.query}
    return {**chosen, "async_creator_fn": connect}


@asynccontextmanager
async def patient(transaction: Transaction) -> AsyncIterator[None]:
    """Let statements of ``transaction`` take ``MIGRATION_S`` in the block: a migration may rewrite a large table."""
    connection = (await transaction.get_raw_connection()).driver_connection
    assert isinstance(connection, BoundedConnection)
    for timeout in ("statement_timeout", "lock_timeout"):
        await transaction.execute(text(f"SET LOCAL {timeout} = '{MIGRATION_S}s'"))
    connection.answer_s = MIGRATION_S
    try:
        yield
    finally:
        connection.answer_s = ANSWER_S
