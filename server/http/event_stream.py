"""A response of server-sent events that may be silent for long, such as a paused job's."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar, Final

from fastapi.responses import StreamingResponse
from starlette.types import Send

SILENCE_S: Final = 15.0
"""Seconds without an event after which a comment is sent: proxies close connections that are silent for a minute."""
KEEP_ALIVE: Final = ": keep-alive\n\n"
STOPPING: Final = ": the server is stopping; connect again\n\n"


class EventStream(StreamingResponse):
    """Sends what ``events`` yields, and closes it at once when the client has gone."""

    media_type = "text/event-stream"
    DECLARED: ClassVar[dict[int | str, dict[str, Any]]] = {200: {"content": {media_type: {}}}}
    """How a route declares it beside its JSON."""

    def __init__(self, events: AsyncGenerator[str]) -> None:
        super().__init__(events)
        self._events = events

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._events):
            await super().stream_response(send)
