"""The text of an answer, and how much two texts agree."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from rapidfuzz.distance import Indel

COMPARED: Final = 8192
"""Two texts of 64,000 tokens take 1.7 s of a core, in which the server answers nothing else."""


def text_of(answer: bytes) -> str | None:
    """Return the text of the first choice of a chat or text completion, whole or as a stream; None: it has none."""
    try:
        if answer.lstrip()[:1] == b"{":
            return _text(json.loads(answer))
        lines = (line[5:].strip() for line in answer.splitlines() if line.startswith(b"data:"))
        parts = [_text(json.loads(line)) for line in lines if line != b"[DONE]"]
    except (ValueError, LookupError, TypeError, AttributeError):  # an error in the stream, or a form of its own
        return None
    return "".join(part for part in parts if part is not None) if parts else None


def _text(body: Any) -> str | None:
    """Return the text of a completion or of one chunk of it; a chunk with the usage alone has no choices."""
    first = [choice for choice in body["choices"] if choice.get("index", 0) == 0]
    if not first:
        return None
    message = first[0].get("message") or first[0].get("delta") or first[0]
    text = message.get("content", message.get("text"))
    return None if text is None else str(text)


def agreement(one: str, other: str, encode: Callable[[str], Sequence[int]]) -> float:
    """Return the tokens that both texts have in the same order, of all tokens of both: 1 for equal texts.

    Of other texts the first ``COMPARED`` characters count.
    """
    if one == other:
        return 1.0
    return float(Indel.normalized_similarity(encode(one[:COMPARED]), encode(other[:COMPARED])))
