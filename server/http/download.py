"""Downloads: a file, whole or in ranges."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import FileResponse, JSONResponse
from starlette.types import Message, Receive, Scope, Send

from server.http.errors import error_body


class Download(FileResponse):
    """Sends a file. An invalid range is refused with OpenAI's error body; starlette's own is plain text."""

    media_type = "application/octet-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: Message | None = None

        async def send_or_refuse(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refusal = message
            elif refusal is not None:
                reason = message["body"].decode() or "it is shorter"
                text = f"the file has no such range ({reason}): send another Range, or none for the whole file"
                size = Headers(raw=refusal["headers"]).get("content-range")
                headers = {} if size is None else {"Content-Range": size}
                body = error_body(text, refusal["status"], param="Range")
                await JSONResponse(body, refusal["status"], headers)(scope, receive, send)
            else:
                await send(message)

        await super().__call__(scope, receive, send_or_refuse)
