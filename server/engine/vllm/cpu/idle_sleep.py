"""An entry point of installations older than ``server.engine.vllm.patches``."""


def install() -> None:
    """No-op: ``server.engine.vllm.orphans`` applies all patches."""
