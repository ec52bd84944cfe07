"""Rows of the database as dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import Row

T = TypeVar("T")


def row_reader(kind: type[T]) -> Callable[[Row[Any]], T]:
    """Return a function that makes a ``kind`` of a row: a field from the column of its name, checked and converted."""
    adapter = TypeAdapter(kind)
    return lambda row: adapter.validate_python(row._asdict())
