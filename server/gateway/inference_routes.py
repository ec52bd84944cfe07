"""The allow-list of the engine's routes that callers can reach.

vLLM also mounts /invocations, /pause, /update_weights, /scale_elastic_ep and more; callers must not reach them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class InferenceRoute:
    """A route of the engine: its method, and what it answers. ``computes``: with the weights of the model it names."""

    summary: str
    method: str = "POST"
    computes: bool = True


INFERENCE_ROUTES: Final[Mapping[str, InferenceRoute]] = {
    "/v1/chat/completions": InferenceRoute("Answer a conversation; OpenAI's chat completions"),
    "/v1/chat/completions/batch": InferenceRoute("Answer several conversations; vLLM's batch of chat completions"),
    "/v1/completions": InferenceRoute("Continue a text; OpenAI's completions"),
    "/v1/responses": InferenceRoute("Answer; OpenAI's responses"),
    "/v1/messages": InferenceRoute("Answer a conversation; Anthropic's messages"),
    "/v1/messages/count_tokens": InferenceRoute(
        "Count the tokens of a conversation; Anthropic's count_tokens", computes=False
    ),
    "/v1/embeddings": InferenceRoute("Embed texts; OpenAI's embeddings"),
    "/tokenize": InferenceRoute("Return the tokens of a text or of a conversation", computes=False),
    "/detokenize": InferenceRoute("Return the text of tokens", computes=False),
    "/tokenizer_info": InferenceRoute("Return the tokenizer's configuration", method="GET", computes=False),
}
"""Exact paths."""


def needs(path: str) -> str:
    """Return the model or the flag that ``path`` needs, for an error message."""
    if path == "/v1/embeddings":
        return "an embedding model (start the server with one, or with --runner pooling)"
    if path == "/tokenizer_info":
        return "the flag --enable-tokenizer-info-endpoint"
    return "a model that generates text"
