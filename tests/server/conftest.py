"""A tiny base model, adapters for it, and servers around the shipped fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from safetensors.numpy import save
from starlette.types import ASGIApp

from adapters.base_model import BaseModel
from adapters.checks.inspector import Inspector
from adapters.lora.canonical_form import canonical_config
from server.app import build_app
from server.composition import open_app
from server.engine.fake import FakeBuilder
from server.http.bounded_protocol import BoundedHttpProtocol
from server.settings import Settings
from tests.server.issuer import Issuer
from tests.server.opened import BASE, HIDDEN, AdapterFiles, Caller, Listening, MakeAdapter, Opened, Opening
from tests.until import Until, until
from trainer.data.file_report import inspect_files
from trainer.job_preflight import Preflight
from trainer.options import AUTO
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec


@pytest.fixture(name="until")
def until_() -> Until:
    return until


@pytest.fixture(name="caller_of")
def caller_of_() -> type[Caller]:
    return Caller


@pytest.fixture
def base() -> BaseModel:
    return BASE


@pytest.fixture
def make_adapter() -> MakeAdapter:
    """Makes an adapter for the tiny base, in canonical form; ``config`` replaces fields of its config."""

    def make(seed: int = 1, *, rank: int = 8, zero: bool = False, **config: Any) -> AdapterFiles:
        random = np.random.default_rng(seed)
        scale = 0.0 if zero else 0.02
        tensors = {
            f"base_model.model.{module}.lora_{side}.weight": random.normal(0, scale, shape).astype(np.float32)
            for module in BASE.modules
            for side, shape in (("A", (rank, HIDDEN)), ("B", (HIDDEN, rank)))
        }
        fields = canonical_config(rank, ["q_proj", "v_proj"], "base") | config
        text = json.dumps(fields, indent=2) + "\n"
        return AdapterFiles(text.encode(), save(tensors, {"format": "pt"}))

    return make


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def quick_preflight(spec: RunSpec, _run: RunDirectory, _may_write: object) -> dict[str, Any]:
    """What the real one reports of a file's rows, without a tokenizer and a dry run: nobody trains here."""
    checked = inspect_files(spec.training_file, spec.validation_file, spec.method)
    training, validation = (None if report is None else report.to_json() for report in checked)
    numbers = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0, "beta": 0.1}
    chosen = {name: getattr(spec, name) for name in numbers if getattr(spec, name) != AUTO}
    return {
        "ok": all(report.ok for report in checked if report is not None),
        "training": training,
        "validation": validation,
        "renderer_sha256": "0" * 64,
        "hyperparameters": numbers | chosen,
        "estimate": {"fits": True, "steps": 9, "seconds": 1.0},
    }


@pytest.fixture(name="quick_preflight")
def quick_preflight_() -> Preflight:
    return quick_preflight


@pytest.fixture(scope="session")
async def inspector() -> AsyncIterator[Inspector]:
    """Looks at the uploads of all servers: starting a process for each would take longer than most tests."""
    async with aclosing(Inspector()) as shared:
        yield shared


@pytest.fixture
def opening(data_dir: Path, database_url: str, make_adapter: MakeAdapter, inspector: Inspector) -> Opening:
    """Opens a server with an app and a client; settings by keyword. Twice on the same data directory is a restart."""
    shared = {} if database_url.startswith("sqlite") else {"database_url": database_url}  # SQLite: the server's default

    @asynccontextmanager
    async def opened(
        *,
        builder: FakeBuilder | None = None,
        bundled_adapters: Path | None = None,
        preflight: Preflight = quick_preflight,
        ready: bool = True,
        **settings: Any,
    ) -> AsyncIterator[Opened]:
        builder = builder or FakeBuilder(BASE)
        server_settings = Settings(
            **{
                "data_dir": data_dir,
                "engine_death_window_s": 0.001,
                "load_wait_s": 5.0,
                "worker": False,
                "probe_reference": "off",
                **shared,
                **settings,
            }
        )
        async with open_app(
            server_settings,
            builder,
            bundled_adapters=bundled_adapters,
            compiles=False,
            inspector=inspector,
            preflight=preflight,
        ) as state:
            app = build_app(state)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                opened = Opened(state, app, client, builder, make_adapter)
                try:
                    if ready:
                        await opened.until_ready()
                    yield opened
                finally:
                    for caller in opened.callers:
                        await caller.close()

    return opened


@pytest.fixture
async def opened(opening: Opening) -> AsyncIterator[Opened]:
    async with opening() as opened:
        yield opened


@pytest.fixture
def client(opened: Opened) -> httpx.AsyncClient:
    return opened.client


@pytest.fixture
def collectors() -> CollectorRegistry:
    return CollectorRegistry()


class _Server(uvicorn.Server):
    """Leaves the signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture
async def issuer(listening: Listening) -> AsyncIterator[Issuer]:
    """An OpenID Connect issuer that listens on a loopback address."""
    served = Issuer()
    async with listening(served) as served.url:
        yield served


@pytest.fixture
def listening() -> Listening:
    """Serves an app over TCP on a free port; gives its URL."""

    @asynccontextmanager
    async def listen(app: ASGIApp) -> AsyncIterator[str]:
        config = uvicorn.Config(
            app, http=BoundedHttpProtocol, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            await until(lambda: server.started)
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await serving

    return listen
