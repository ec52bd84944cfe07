"""The server process: listens at once, drains on SIGTERM, and ends with an exit code that names the reason.

0   stopped by a signal; requests in flight finished, or the time to drain was over
2   the engine can never start as asked (a wrong flag, no such model)
70  the engine died too often
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import structlog
import uvicorn
import uvloop

import embedded
from server.app import build_app
from server.composition import open_app
from server.engine.vllm.builder import VllmBuilder
from server.engine.vllm.flags import EMBEDDED_FLAGS
from server.logs import configure_logs
from server.settings import Settings
from server.state import AppState

log = structlog.get_logger(__name__)

CUT_S = 3
"""Seconds that uvicorn waits for open connections after the drain before it closes them."""
BACKLOG = 2048
"""Connections that the kernel queues before they are accepted; uvicorn's own number."""


class CannotListen(ValueError):
    """The address is in use, or not one of this machine."""


def serve(settings: Settings) -> int:
    """Serve until a signal stops the process; return the exit code.

    Raises:
        CannotListen: the address is in use, or not one of this machine.
        ExposedWithoutKeys: other machines can reach the address and no API key exists.
    """
    configure_logs(settings.log_format)
    with listening_socket(settings) as listener:
        return uvloop.run(_serve(settings, listener))


def listening_socket(settings: Settings) -> socket.socket:
    """Return the socket to serve on, bound and listening.

    Raises:
        CannotListen: the address is in use, or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio disables Nagle's algorithm only on sockets created as IPPROTO_TCP; with it, small responses take 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
        return listener
    except OSError as taken:
        listener.close()
        raise CannotListen(
            f"cannot listen on {settings.host} port {settings.port}: {taken.strerror}; choose another with --port"
        ) from taken


async def _serve(settings: Settings, listener: socket.socket) -> int:
    model, flags = settings.model, settings.engine_flags
    bundled_adapters = None
    if model is None:
        model, bundled_adapters = str(embedded.BASE), embedded.ADAPTERS
        flags = (*EMBEDDED_FLAGS, *flags)
    builder = VllmBuilder(model, flags, capacity=settings.max_residents)
    async with open_app(settings, builder, bundled_adapters=bundled_adapters) as state:
        return await _listen(state, listener)


async def _listen(state: AppState, listener: socket.socket) -> int:
    """Serve requests until a signal, after which requests drain, or until the supervisor gives up."""
    config = uvicorn.Config(
        build_app(state), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=CUT_S
    )
    server = _Server(config)
    signals = _Signals()
    log.info(
        "listening", url="http://{}:{}".format(*listener.getsockname()[:2]), model=state.settings.model or "embedded"
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(sockets=[listener]), name="http")
        failed = tasks.create_task(state.supervisor.failed.wait(), name="engine")
        stopped = tasks.create_task(signals.stop.wait(), name="stop")
        await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            await _drain(state, signals)
        server.should_exit = True
        failed.cancel()
        stopped.cancel()
    return state.supervisor.exit_code or 0


async def _drain(state: AppState, signals: _Signals) -> None:
    """Wait for the requests in flight, at most ``drain_s`` or until a second signal."""
    log.info("draining", within_s=state.settings.drain_s)
    draining = asyncio.create_task(state.admission.drain(state.settings.drain_s))
    stop_now = asyncio.create_task(signals.now.wait())
    await asyncio.wait({draining, stop_now}, return_when=asyncio.FIRST_COMPLETED)
    log.info("drained" if draining.done() and draining.result() else "closing the requests that are left")
    draining.cancel()
    stop_now.cancel()


class _Signals:
    """SIGTERM and SIGINT of this process: the first signal starts the drain, the second one ends it."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.now = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        if self.stop.is_set():
            self.now.set()
        self.stop.set()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which would close the listener before the drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to ``_Signals``."""
        yield
