"""What a console shows, and what JSON has, of the same events. In a process of its own: the set-up is the process's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from server.logs import ConsoleLines

EVENTS = """
import logging, sys, structlog
from server.logs import ACCESS, configure_logs
configure_logs({format!r}, {level!r}, access_log={access})
{then}
log, access = structlog.get_logger("server.part"), structlog.get_logger(ACCESS)
log.debug("detail")
log.info("ready", took_s=2.1, url="http://host", adapters=["a", "b"], is_block=True)
log.warning("slow", reason="the disk is full", after_s=3)
structlog.contextvars.bind_contextvars(request_id="r1")
for path in ("/health", "/ready", "/metrics", "/v1/models"):
    access.info("request", method="GET", path=path, status=200, adapter=None)
logging.getLogger("alembic").info("a migration")
logging.getLogger("library").warning("a library warns")
logging.getLogger("library").error("a library fails")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("engine failed")
"""


def lines(*, format: str = "text", level: str = "info", access: bool = True, then: str = "") -> list[str]:  # noqa: A002
    """What the events above write to standard error."""
    program = EVENTS.format(format=format, level=level, access=access, then=then)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_console_shows_times_sentences_and_a_block_but_no_probes_and_no_libraries() -> None:
    shown = lines()
    texts = [line.partition(" ")[2] for line in shown[:6]]
    assert texts == [
        "ready in 2.1 s",
        " url       http://host",
        " adapters  a, b",
        "warning: slow: the disk is full after_s=3",
        "request method=GET path=/v1/models status=200",
        "error: a library fails",
    ]
    assert shown[6].endswith("error: engine failed")
    assert shown[-1] == "ZeroDivisionError: division by zero"


def test_json_has_every_event_and_every_field() -> None:
    events = [json.loads(line) for line in lines(format="json")]
    assert [event["event"] for event in events] == [
        "ready",
        "slow",
        *["request"] * 4,
        "a library warns",
        "a library fails",
        "engine failed",
    ]
    ready, request, failed = events[0], events[2], events[-1]
    assert (ready["took_s"], ready["adapters"], ready["logger"]) == (2.1, ["a", "b"], "server.part")
    assert "is_block" not in ready
    assert (request["path"], request["request_id"], request["level"]) == ("/health", "r1", "info")
    assert "ZeroDivisionError" in failed["exception"]


def test_debug_shows_probes_and_the_warnings_of_libraries() -> None:
    shown = "\n".join(lines(level="debug"))
    for text in ("detail", "path=/health", "a library warns"):
        assert text in shown
    assert "a migration" not in shown


@pytest.mark.parametrize(("level", "least"), [("warning", "slow"), ("error", "a library fails")])
def test_a_higher_level_leaves_out_what_is_below(level: str, least: str) -> None:
    assert least in lines(level=level)[0]


@pytest.mark.parametrize("format", ["text", "json"])
def test_requests_can_be_left_out(format: str) -> None:  # noqa: A002
    assert not any("/v1/models" in line for line in lines(format=format, access=False))


def test_our_events_go_on_after_a_dependency_has_silenced_the_root_logger() -> None:
    silenced = "root = logging.getLogger(); root.setLevel('ERROR'); [h.setLevel('ERROR') for h in root.handlers]"
    assert any("ready in 2.1 s" in line for line in lines(then=silenced))
    assert any(
        "ready in 2.1 s" in line for line in lines(then="import model_hosting_container_standards.logging_config")
    )


def test_what_a_caller_sends_cannot_write_lines_or_move_the_terminals_cursor() -> None:
    path = "/\x1b[31mred\x1b]0;title\x07\n12:00:00 error: forged\u202e\x08"
    line = ConsoleLines(False)(
        None, "info", {"level": "info", "timestamp": "12:00:00", "event": "request", "path": path}
    )
    assert line == r"12:00:00 request path=/\x1b[31mred\x1b]0;title\x07\n12:00:00 error: forged\u202e\x08"
    assert line.isprintable()
