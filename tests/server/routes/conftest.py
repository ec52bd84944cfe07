"""The official client of a server that listens on TCP, and files to train on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from openai import AsyncOpenAI

from tests.server.opened import Listening, Opened

ChatRows = Callable[..., bytes]
Official = Callable[[Opened], AbstractAsyncContextManager[AsyncOpenAI]]


def chat_rows(count: int = 12) -> bytes:
    rows = [
        {"messages": [{"role": "user", "content": f"{n} + 1?"}, {"role": "assistant", "content": str(n + 1)}]}
        for n in range(count)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture(name="chat_rows")
def chat_rows_() -> ChatRows:
    """Makes a training file of so many conversations."""
    return chat_rows


@pytest.fixture
def official(listening: Listening) -> Official:
    """Opens OpenAI's own client of an opened server."""

    @asynccontextmanager
    async def connected(opened: Opened) -> AsyncIterator[AsyncOpenAI]:
        async with (
            listening(opened.app) as url,
            AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            yield client

    return connected


@pytest.fixture
async def openai(opened: Opened, official: Official) -> AsyncIterator[AsyncOpenAI]:
    async with official(opened) as client:
        yield client


@pytest.fixture
def upload(openai: AsyncOpenAI) -> Callable[..., Awaitable[str]]:
    """Uploads a file to train on and returns its id."""

    async def uploaded(content: bytes | None = None) -> str:
        file = ("train.jsonl", chat_rows() if content is None else content)
        return (await openai.files.create(file=file, purpose="fine-tune")).id

    return uploaded
