"""The names of roles."""

from collections.abc import Mapping
from typing import Any, Final

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
"""Those of a request."""
CALL: Final = "function_call"
"""ShareGPT's role of a tool call, which a request has as a key of an answer."""
NAMES: Final[Mapping[str, str]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "function": "tool",
    "function_call": CALL,
    "tool_call": CALL,
}
"""ShareGPT's names of roles, in lower case."""


def is_message(value: Any) -> bool:
    """Whether ``value`` is an object with a known role, or with role and content."""
    if not isinstance(value, dict):
        return False
    role = value.get("role", value.get("from"))
    return {"role", "content"} <= value.keys() or (isinstance(role, str) and role.strip().lower() in NAMES)
