"""What a worker says of an adapter that it prepared is heard, whatever else happens at that moment."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.engine.protocol import EngineGone, LoadFailed, Resident
from server.engine.vllm.preparation import PULSE_S, Preparations


class Client:
    """vLLM's, with one worker that answers as it is told to."""

    vllm_config = SimpleNamespace(parallel_config=SimpleNamespace(world_size=1, nnodes=1))
    errored = False

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def collective_rpc(self, _: str, args: tuple[Any, ...]) -> None:
        asyncio.get_running_loop().call_later(0.01, self._answer, args[-1])


def say(reply: str, reason: bytes = b"") -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto(reason, reply)


async def prepared(answer: Any) -> None:
    client: Any = Client(answer)
    await asyncio.wait_for(Preparations(client).prepare(Resident(1, "sql@1", Path("sql"))), 20 * PULSE_S)


async def test_an_answer_that_comes_with_the_end_of_a_pulse_is_not_lost() -> None:
    def while_the_loop_is_busy(reply: str) -> None:
        say(reply)
        time.sleep(2 * PULSE_S)  # the answer and the end of the pulse are noticed in one turn of the loop

    await prepared(while_the_loop_is_busy)


async def test_an_answer_may_take_many_pulses() -> None:
    await prepared(lambda reply: asyncio.get_running_loop().call_later(3 * PULSE_S, say, reply))


async def test_a_worker_that_refuses_is_quoted() -> None:
    with pytest.raises(LoadFailed, match="no such tensor"):
        await prepared(lambda reply: say(reply, b"no such tensor"))


async def test_a_dead_engine_is_not_waited_for() -> None:
    client: Any = Client(lambda _: setattr(client, "errored", True))
    with pytest.raises(EngineGone):
        await Preparations(client).prepare(Resident(1, "sql@1", Path("sql")))
