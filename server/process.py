"""The process: listens at once, drains on SIGTERM, ends with an exit code that tells why.

0   asked to stop, everything in flight finished or its time was up
2   the engine can never start as asked (a wrong flag, no such model)
70  the engine died too often
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import structlog
import uvicorn

import embedded
from server.app import build_app
from server.engine.flags import EMBEDDED_FLAGS
from server.engine.vllm import VllmBuilder
from server.house import House, open_house
from server.logs import configure_logs
from server.settings import Settings

log = structlog.get_logger(__name__)

CUT_S = 3
"""How long uvicorn waits for connections after the drain before it cuts them."""


class ExposedWithoutKeys(ValueError):
    """The address is reachable from other machines and nobody needs a key."""


def serve(settings: Settings) -> int:
    """Serve until told to stop; return the exit code."""
    configure_logs(settings.log_format)
    return asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    model, flags = settings.model, settings.engine_flags
    examples = None
    if model is None:
        model, examples = str(embedded.BASE), embedded.ADAPTERS
        flags = (*EMBEDDED_FLAGS, *flags)
    builder = VllmBuilder(model, flags, capacity=settings.max_residents)
    async with open_house(settings, builder, examples=examples) as house:
        if settings.is_reachable_from_outside and house.keys.is_empty and not settings.allow_anonymous:
            raise ExposedWithoutKeys(
                f"{settings.host} is reachable from other machines and no API key exists: run `patchbay keys create "
                "NAME --scope admin` first, or pass --allow-anonymous"
            )
        return await _listen(house)


async def _listen(house: House) -> int:
    settings = house.settings
    server = _Server(
        uvicorn.Config(
            build_app(house),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=CUT_S,
        )
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, stop, server)
    listening = asyncio.create_task(server.serve(), name="http")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    failing = asyncio.create_task(house.supervisor.failed.wait(), name="engine")
    log.info("listening", url=f"http://{settings.host}:{settings.port}", model=settings.model or "embedded")
    await asyncio.wait({listening, stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        log.info("draining", within_s=settings.drain_s)
        is_idle = await house.admission.drain(settings.drain_s)
        log.info("drained" if is_idle else "drain time is up; cutting what is left")
    server.should_exit = True
    await listening
    stopping.cancel()
    failing.cancel()
    return house.supervisor.exit_code or 0


def _on_signal(stop: asyncio.Event, server: uvicorn.Server) -> None:
    if stop.is_set():  # asked twice: at once
        server.force_exit = True
        server.should_exit = True
    stop.set()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: it closes the listener at once, we drain first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
