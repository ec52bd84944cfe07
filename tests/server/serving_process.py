"""A server process around the fake engine that dies at an ordered point. Prints its port. Run by test_crash_points."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import uvicorn

from adapters.base_model import BaseModel
from server.app import build_app
from server.composition import open_app
from server.engine.fake import FakeBuilder
from server.logs import configure_logs
from server.settings import Settings


async def main(data_dir: Path, base: BaseModel, point: str) -> None:
    configure_logs("text")  # to stderr: stdout is for the port
    async with open_app(Settings(data_dir=data_dir, fault_at=point, worker=False), FakeBuilder(base)) as state:
        while not state.engine.is_ready:
            await asyncio.sleep(0.002)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            print(listener.getsockname()[1], flush=True)
            config = uvicorn.Config(build_app(state), log_config=None, lifespan="off")
            await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    data_dir, shapes, point = sys.argv[1:]
    asyncio.run(main(Path(data_dir), BaseModel.from_shapes("base", {"model_type": "llama"}, json.loads(shapes)), point))
