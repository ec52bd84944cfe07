"""A worker's reply about an adapter that it prepared arrives, whatever else happens at that moment."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.engine.protocol import EngineGone, LoadFailed, Resident
from server.engine.vllm.preparation import POLL_S, PreparationClient

Answer = Callable[[str], object]
"""Gets the address to reply to."""


class Client:
    """vLLM's client, with one worker whose reply is ``answer``."""

    vllm_config = SimpleNamespace(parallel_config=SimpleNamespace(world_size=1, nnodes=1))
    errored = False

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def collective_rpc(self, _: str, args: tuple[Any, ...]) -> None:
        asyncio.get_running_loop().call_later(0.01, self._answer, args[-1])


def send(reply: str, reason: bytes = b"") -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto(reason, reply)


async def prepare(answer: Answer) -> None:
    client: Any = Client(answer)
    await asyncio.wait_for(PreparationClient(client).prepare(Resident(1, "sql@1", Path("sql"))), 20 * POLL_S)


async def test_a_reply_at_the_end_of_a_poll_is_not_lost() -> None:
    def while_the_loop_is_busy(reply: str) -> None:
        send(reply)
        time.sleep(2 * POLL_S)  # the loop sees the reply and the end of the poll in one turn

    await prepare(while_the_loop_is_busy)


async def test_a_reply_may_take_many_polls() -> None:
    await prepare(lambda reply: asyncio.get_running_loop().call_later(3 * POLL_S, send, reply))


async def test_a_worker_that_refuses_is_quoted() -> None:
    with pytest.raises(LoadFailed, match="no such tensor"):
        await prepare(lambda reply: send(reply, b"no such tensor"))


async def test_a_dead_engine_is_not_waited_for() -> None:
    client: Any = Client(lambda _: setattr(client, "errored", True))
    with pytest.raises(EngineGone):
        await PreparationClient(client).prepare(Resident(1, "sql@1", Path("sql")))
