"""The worker's end of the channel over which the child of a run asks for answers of its policy.

The channel is the child's standard input, one JSON object a line. It ends with the child, so that no later attempt is
answered what an earlier one asked.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from adapters.errors import PatchbayError
from trainer.policy_sampling import PolicyAnswers, PolicyRequest

MAX_LINE: Final = 2**30
"""Bytes of a request: the prompts of a step, with their rows."""

Sample = Callable[[PolicyRequest], Awaitable[PolicyAnswers]]


class PolicyChannel:
    """Answers the child's requests with ``sample``, one after the other. The child's end is ``child_end``."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._own_end, self.child_end = socket.socketpair()

    async def serve(self) -> None:
        """Answer until the child has closed its end; call it once the child has been started."""
        self.child_end.close()
        reader, writer = await asyncio.open_unix_connection(sock=self._own_end, limit=MAX_LINE)
        try:
            with suppress(ConnectionError):  # the child died; its attempt sees that by itself
                while line := await reader.readline():
                    answer = await self._answer(PolicyRequest.model_validate_json(line))
                    writer.write(answer.model_dump_json().encode() + b"\n")
                    await writer.drain()
        finally:
            writer.close()

    async def _answer(self, request: PolicyRequest) -> PolicyAnswers:
        try:
            return await self._sample(request)
        except PatchbayError as refused:
            return PolicyAnswers(refusal=refused.message)
