"""The allow-list of the engine's routes that callers can reach.

vLLM also mounts /invocations, /pause, /update_weights, /scale_elastic_ep and more; callers must not reach them.
"""

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
    """Return the kind of base model that ``path`` needs, for an error message."""
    if path == "/v1/embeddings":
        return "an embedding model (start the server with one, or with --runner pooling)"
    return "a model that generates text"
