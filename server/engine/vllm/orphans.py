"""The entry point of installations older than ``server.engine.vllm.patches``."""

from server.engine.vllm.patches import install

__all__ = ["install"]
