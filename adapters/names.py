"""The grammar of names: adapter names, aliases, and the references that callers write as ``model``.

    reference := adapter | adapter "@" alias | adapter "@" version
    sql          the version that alias `stable` points to
    sql@canary   the version that alias `canary` points to
    sql@7        version 7, for ever the same bytes

Names are ASCII on purpose (no look-alikes) and never become file paths: blobs are addressed by digest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from adapters.errors import InvalidName

DEFAULT_ALIAS = "stable"

MAX_NAME_LENGTH = 96
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[1-9][0-9]{0,9}")


def check_adapter_name(name: str) -> str:
    """Return ``name`` if it may name an adapter.

    Raises:
        InvalidName: with the rule that was broken.
    """
    return _check(name, "adapter name", "name")


def check_alias(alias: str) -> str:
    """Return ``alias`` if it may name an alias; digits alone would read as a version.

    Raises:
        InvalidName: with the rule that was broken.
    """
    if alias.isdigit():
        raise InvalidName(
            f"alias '{alias}' reads as a version number; use a name with a letter, such as 'v{alias}'",
            param="alias",
        )
    return _check(alias, "alias", "alias")


def _check(text: str, noun: str, param: str) -> str:
    if len(text) > MAX_NAME_LENGTH or ".." in text or not _NAME.fullmatch(text):
        raise InvalidName(
            f"{noun} '{text[:MAX_NAME_LENGTH]}' is not valid: use 1 to {MAX_NAME_LENGTH} letters, digits, '.', '_' "
            "or '-', beginning and ending with a letter or digit, without '..'",
            param=param,
        )
    return text


@dataclass(frozen=True, slots=True)
class Reference:
    """What a caller wrote as ``model``: an adapter and either a version number or an alias."""

    adapter: str
    version: int | None = None
    alias: str = DEFAULT_ALIAS

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse ``adapter``, ``adapter@alias`` or ``adapter@version``.

        Raises:
            InvalidName: the text is no reference.
        """
        adapter, at, tail = text.partition("@")
        check_adapter_name(adapter)
        if not at:
            return cls(adapter)
        if _VERSION.fullmatch(tail):
            return cls(adapter, version=int(tail))
        return cls(adapter, alias=check_alias(tail))

    def __str__(self) -> str:
        return f"{self.adapter}@{self.version if self.version is not None else self.alias}"
