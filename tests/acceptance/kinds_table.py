"""The tables of docs/adapters.md: rendered, read and compared."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

DOCUMENT = Path(__file__).parents[2] / "docs" / "adapters.md"
BEGIN = "<!-- made by tests/acceptance/test_kinds.py -->"
END = "<!-- end of what is made -->"
HEADS = {
    "Served": ("adapter", "compiled", "rank", "loss", "mean |Δ|", "max |Δ|", "effect"),
    "Refused": ("adapter", "where", "found", "needed"),
}
FACTOR = 3.0
"""So much may a measured number change from one machine to another; whole numbers are no measurements."""

_MEASURED = re.compile(r"\d+\.\d+(?:e-?\d+)?|\d+e-?\d+")


@dataclass(frozen=True)
class Table:
    """One of ``HEADS``, and its rows in order, cells as they are written."""

    title: str
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, title: str, rows: Iterable[Iterable[str]]) -> Self:
        return cls(title, tuple(tuple(cell.replace("|", "\\|").replace("<", "\\<") for cell in row) for row in rows))

    def written(self) -> str:
        head = [cell.replace("|", "\\|") for cell in HEADS[self.title]]
        lines = [head, ["---"] * len(head), *self.rows]
        return f"### {self.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def read() -> list[Table]:
    """The tables in the document."""
    _, made, _ = _parts()
    tables = []
    for section in made.split("### ")[1:]:
        title, *lines = section.splitlines()
        rows = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in lines if line.startswith("| ")]
        tables.append(Table(title, tuple(tuple(row) for row in rows[2:])))
    return tables


def write(tables: Iterable[Table]) -> None:
    """Put the tables into the document."""
    before, _, after = _parts()
    made = "\n".join(table.written() for table in tables)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{made}\n{END}{after}")


def agree(one: str, other: str) -> bool:
    """Whether two cells say the same, measured numbers to within ``FACTOR``."""
    if _MEASURED.split(one) != _MEASURED.split(other):
        return False
    numbers = zip(_MEASURED.findall(one), _MEASURED.findall(other), strict=True)
    return all(float(a) <= FACTOR * float(b) and float(b) <= FACTOR * float(a) for a, b in numbers)


def differences(written: Iterable[Table], found: Iterable[Table]) -> list[str]:
    """The differences between the document and the findings, a line for each row."""
    old = {(table.title, row[0]): row for table in written for row in table.rows}
    new = {(table.title, row[0]): row for table in found for row in table.rows}
    lines = [f"{where}: only in the document" for where in old.keys() - new.keys()]
    lines += [f"{where}: not in the document" for where in new.keys() - old.keys()]
    for where in old.keys() & new.keys():
        if not all(agree(*cells) for cells in zip(old[where], new[where], strict=True)):
            lines.append(f"{where}: {old[where][1:]} in the document, found {new[where][1:]}")
    return sorted(lines)


def _parts() -> tuple[str, str, str]:
    before, found, rest = DOCUMENT.read_text().partition(BEGIN)
    made, ended, after = rest.partition(END)
    assert found, f"no line {BEGIN} in {DOCUMENT.name}"
    assert ended, f"no line {END} in {DOCUMENT.name}"
    return before, made, after
