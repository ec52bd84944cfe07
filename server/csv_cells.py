"""Cells of CSV that spreadsheets show as they are, and do not compute."""

from typing import Any, Final

_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Beginnings of a text that Excel and others take for a formula. https://owasp.org/www-community/attacks/CSV_Injection"""


def csv_cell(value: Any) -> Any:
    """Return ``value``; a text that begins like a formula gets an apostrophe before it, as OWASP advises."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value
