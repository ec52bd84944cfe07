"""The file of the last residents."""

from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from server.residency.journal import ResidentsJournal
from tests.server.residency.rig import MakeVersion


async def test_a_disk_that_takes_no_writes_is_logged_once_and_so_is_its_recovery(
    tmp_path: Path, version: MakeVersion
) -> None:
    directory = tmp_path / "data"
    journal = ResidentsJournal(directory / "residents.json")
    with capture_logs() as lines:
        for number in range(3):
            await journal.try_record([version(number)])
        directory.mkdir()
        for number in range(3):
            await journal.try_record([version(number)])
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("warning", "residents cannot be recorded; the next start may be colder"),
        ("warning", "residents are recorded again"),
    ]
    assert (directory / "residents.json").read_text() == "[2]"


async def test_residents_that_have_not_changed_say_nothing_of_the_disk(tmp_path: Path, version: MakeVersion) -> None:
    directory = tmp_path / "data"
    journal = ResidentsJournal(directory / "residents.json")
    with capture_logs() as lines:
        await journal.try_record([version(1)])
        await journal.try_record([])
        await journal.try_record([version(1)])
    assert len(lines) == 1
