"""Gives the body of a request once more, after it was read ahead of the app that answers it."""

from starlette.types import Message, Receive


def replayed(message: Message, receive: Receive) -> Receive:
    """Return a ``receive`` that gives ``message`` first; then the caller's own, which tells when it leaves."""
    was_read = False

    async def replay() -> Message:
        nonlocal was_read
        if was_read:
            return await receive()
        was_read = True
        return message

    return replay
