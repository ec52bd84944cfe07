"""The server process: listens at once, drains on SIGTERM, and ends with an exit code that names the reason.

0   stopped by a signal; requests in flight finished, or the time to drain was over
2   the engine can never start as asked (a wrong flag, no such model)
70  the engine died too often
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator

import structlog
import uvicorn
import uvloop

import embedded
from server.app import build_app
from server.composition import open_app
from server.engine.vllm.builder import VllmBuilder
from server.engine.vllm.flags import EMBEDDED_FLAGS
from server.engine.vllm.process_logs import ProcessLogs
from server.http.bounded_protocol import BoundedHttpProtocol, raise_descriptor_limit
from server.logs import configure_logs
from server.settings import DEFAULT_URL, OWN_FILES, Settings
from server.state import AppState

log = structlog.get_logger(__name__)

CUT_S = 3
"""Seconds that uvicorn waits for open connections after the drain before it closes them."""
KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open. Longer than clients and load balancers reuse one (OpenAI's client 5 s, a
balancer of AWS 60 s): a request sent on a connection that is just being closed is lost without an answer."""
BACKLOG = 2048
"""Connections that the kernel queues before they are accepted; uvicorn's own number."""

TOLD_ADAPTERS = 8
"""Adapters that the console names when the server is ready."""


class CannotListen(ValueError):
    """The address is in use, or not one of this machine."""


def serve(settings: Settings, logs: ProcessLogs, started: float) -> int:
    """Serve until a signal stops the process; return the exit code.

    Args:
        logs: the files of what vLLM's processes log.
        started: when the command began, on the monotonic clock.

    Raises:
        CannotListen: the address is in use, or not one of this machine.
        ExposedWithoutKeys: other machines can reach the address and no API key exists.
    """
    os.umask(OWN_FILES)
    raise_descriptor_limit()
    configure_logs(settings.log_format, settings.log_level, access_log=settings.access_log)
    with listening_socket(settings) as listener:
        exit_code = uvloop.run(_serve(settings, logs, listener, started))
    if exit_code == 0:
        log.info("stopped")
    return exit_code


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


async def _serve(settings: Settings, logs: ProcessLogs, listener: socket.socket, started: float) -> int:
    model, flags = settings.model, settings.engine_flags
    bundled_adapters = None
    if model is None:
        model, bundled_adapters = str(embedded.BASE), embedded.ADAPTERS
        flags = (*EMBEDDED_FLAGS, *flags)
    builder = VllmBuilder(model, flags, capacity=settings.max_residents, logs=logs)
    async with open_app(settings, builder, bundled_adapters=bundled_adapters) as state:
        return await _listen(state, listener, started)


async def _listen(state: AppState, listener: socket.socket, started: float) -> int:
    """Serve requests until a signal, after which requests drain, or until the supervisor gives up."""
    config = uvicorn.Config(
        build_app(state),
        http=BoundedHttpProtocol,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CUT_S,
    )
    server = _Server(config)
    signals = _Signals()
    url = _url(listener)
    log.info("starting", base=state.settings.model or "the embedded base model", url=url)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(sockets=[listener]), name="http")
        ready = tasks.create_task(_tell_when_ready(state, url, started), name="ready")
        failed = tasks.create_task(state.supervisor.failed.wait(), name="engine")
        stopped = tasks.create_task(signals.stop.wait(), name="stop")
        await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            await _drain(state, signals)
        state.records.events.close()  # their streams would outlast the drain: they end in order, and last
        server.should_exit = True
        for waiting in (ready, failed, stopped):
            waiting.cancel()
    return state.supervisor.exit_code or 0


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _tell_when_ready(state: AppState, url: str, started: float) -> None:
    """Log what is served once the first engine is ready."""
    await state.engine.first_ready()
    adapters, has_more = state.registry.catalog.adapters(after=None, limit=TOLD_ADAPTERS)
    names = [adapter.name for adapter in adapters]
    base = state.engine.served_names[0]
    log.info(
        "ready",
        took_s=round(time.monotonic() - started, 1),
        url=url,
        base=base,
        adapters=[*names, *(["…"] if has_more else [])] or "none yet; `patchbay adapters push DIRECTORY` publishes one",
        **{"try": f"{_program()} chat {names[0] if names else base}{'' if url == DEFAULT_URL else f' --url {url}'}"},
        is_block=True,
    )


def _program() -> str:
    """Return the name by which a shell finds this program, or its path."""
    return "patchbay" if shutil.which("patchbay") else sys.argv[0]


async def _drain(state: AppState, signals: _Signals) -> None:
    """Let load balancers see that the server leaves, then wait for the requests in flight; a second signal ends both.

    For ``lame_duck_s`` readiness is refused and requests are taken; the drain takes at most ``drain_s``.
    """
    state.admission.is_leaving = True
    if state.settings.lame_duck_s:
        log.info("leaving: /ready is 503, requests are still taken", for_s=state.settings.lame_duck_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(signals.now.wait(), state.settings.lame_duck_s)
    if state.admission.in_flight:
        log.info(
            "stopping after the requests in flight; Ctrl-C ends them now",
            requests=state.admission.in_flight,
            within_s=state.settings.drain_s,
        )
    draining = asyncio.create_task(state.admission.drain(state.settings.drain_s))
    stop_now = asyncio.create_task(signals.now.wait())
    await asyncio.wait({draining, stop_now}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done() or not draining.result():
        log.warning("closing the requests that are left", requests=state.admission.in_flight)
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
