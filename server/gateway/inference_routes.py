"""The allow-list: which of the engine's routes the world may reach. All others of vLLM stay inside.

vLLM also mounts /invocations, /pause, /update_weights, /scale_elastic_ep and more; none of them is ours to give away.
"""

from __future__ import annotations

INFERENCE_ROUTES = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
    }
)
"""Exact paths, all POST."""


def needs(path: str) -> str:
    """Return what a base model must be for ``path`` to work, for the message when it is not."""
    if path == "/v1/embeddings":
        return "an embedding model (start the server with one, or with --runner pooling)"
    return "a model that generates text"
