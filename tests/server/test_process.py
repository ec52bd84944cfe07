"""The socket a process listens on."""

from __future__ import annotations

import asyncio
import socket

import pytest

from server.process import CannotListen, listening_socket
from server.settings import Settings


async def test_answers_leave_at_once() -> None:
    """asyncio switches Nagle's algorithm off for sockets that are named as TCP; with it a small answer takes 40 ms."""
    delays: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        delays.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with listening_socket(Settings(port=0)) as listener:
        async with await asyncio.start_server(note, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            assert await delays
            writer.close()


def test_a_taken_port_is_said_with_the_way_out() -> None:
    with (
        listening_socket(Settings(port=0)) as taken,
        pytest.raises(CannotListen, match="choose another with --port"),
    ):
        listening_socket(Settings(port=taken.getsockname()[1]))
