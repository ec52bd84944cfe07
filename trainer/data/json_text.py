"""Lists and objects of a row that stand there as JSON text: tables have no other way to hold them.

pandas writes lists into CSV as Python shows them (``[{'role': 'user', ...}]``), which is read too.
"""

import ast
import json
import re
from typing import Any, Final

from adapters import strict_json
from trainer.data.faults import FaultKind, LineFaults, WarningKind, shown
from trainer.data.nulls import without_nulls
from trainer.data.roles import NAMES, is_message

_MOST_PYTHON: Final = 2**20
"""Characters of Python's spelling that are read: its parser takes much memory."""
_OBJECT: Final = re.compile(r"""\s*(?:array\()?\[?\s*\{\s*['"](?:role|from|content|value)['"]\s*:""")
_ROLE: Final = re.compile(rf"""['"](?:role|from)['"]\s*:\s*['"](?:{"|".join(NAMES)})['"]""", re.IGNORECASE)
"""What a text of one or several messages begins with, and what it holds."""


def json_value(value: Any) -> Any:
    """Return the object or list that ``value`` is the text of, as JSON or Python write it; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return without_nulls(strict_json.parse(value.encode()))[0]
    except (ValueError, RecursionError):
        read = _python_value(value.strip())
        return value if read is None else without_nulls(read)[0]


def _python_value(text: str) -> Any:
    """Return the value that Python shows as exactly ``text``, if JSON has its like; else None."""
    if len(text) > _MOST_PYTHON:
        return None
    try:
        value = ast.literal_eval(text)
        is_exact = repr(value) == text and strict_json.parse(json.dumps(value).encode()) == value
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if is_exact else None


def json_list(value: Any, where: str, faults: LineFaults) -> list[Any]:
    """Return the list that ``value`` is, or is the JSON text of; empty text is an empty list, and so is null.

    Empty, and a fault added, for any other value.
    """
    if isinstance(value, list):
        return value
    listed = [] if isinstance(value, str) and value.strip() in ("", "null") else json_value(value)
    if isinstance(listed, list):
        return listed
    if isinstance(value, str):
        faults.add(FaultKind.WRONG_TYPE, where, f"the text {shown(value)}", "a list, or a list as JSON text")
    else:
        faults.typed(listed, list, where)
    return []


def messages_in(value: Any, where: str, faults: LineFaults) -> Any:
    """Return a list for one message, and for text of one or several, as CSV has them; any other value as it is.

    A fault is added for a text that begins as messages do and is no JSON: it would be trained as that text.
    """
    listed = json_value(value)
    if isinstance(listed, str) and _OBJECT.match(listed) and _ROLE.search(listed):
        needed = "a list, or a list as JSON text (in pandas: column.map(json.dumps))"
        faults.add(FaultKind.WRONG_TYPE, where, f"messages as the text {shown(value)}", needed)
    if isinstance(listed, dict) and is_message(listed):
        listed = [listed]
    if isinstance(listed, list) and isinstance(value, dict):
        return listed
    if not isinstance(value, str) or not isinstance(listed, list) or not listed or not all(map(is_message, listed)):
        return value
    faults.warn(WarningKind.CONVERTED, "JSON text of messages is read as messages")
    return listed
