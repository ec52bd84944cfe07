"""Logs on standard error: lines for a person at a console, or one JSON object per event.

Our own loggers have handlers and a level of their own. A dependency of vLLM sets the root logger, and every handler
that it finds there, to ERROR when it is imported: what goes through the root logger is silent from then on.
"""

import logging
import sys
from typing import Final, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

OURS: Final = ("adapters", "trainer", "server")
"""Loggers of this project's packages."""
ACCESS: Final = "server.access_log"
"""Logger of the lines about single requests."""
PROBES: Final = frozenset({"/health", "/ready", "/metrics"})
"""Paths that load balancers and Prometheus ask for every few seconds."""

_NOISY: Final = "model_hosting_container_standards"
"""The dependency that sets the root logger; it warns about files that only a hosting service has."""
_BLOCK: Final = "is_block"
_HIDDEN: Final = frozenset({"request_id", "logger", "timestamp", "level", "event", "exception", "stack", _BLOCK})
_STYLES: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_DIM: Final = "\x1b[2m"
_RESET: Final = "\x1b[0m"


def configure_logs(log_format: LogFormat, level: LogLevel = "info", *, access_log: bool = True) -> None:
    """Send structlog's and the standard library's logs to standard error in one format. Call it once per process.

    Args:
        level: of our own events. Text shows what libraries log only for ``debug``; JSON has their warnings.
        access_log: whether requests are logged; text leaves ``PROBES`` out.
    """
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [console_handler(log_format)], False
        logger.setLevel(level.upper())
    access = logging.getLogger(ACCESS)
    access.disabled = not access_log
    access.filters = [_is_no_probe] if log_format == "text" and level != "debug" else []
    logging.getLogger(_NOISY).filters = [lambda record: record.levelno >= logging.ERROR]
    is_complete = log_format == "json" or level == "debug"
    logging.basicConfig(
        handlers=[console_handler(log_format)], level=logging.WARNING if is_complete else logging.ERROR, force=True
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(log_format),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def console_handler(log_format: LogFormat) -> logging.Handler:
    """Return a handler that writes records, structlog's or others, to standard error in ``log_format``."""
    renderers: list[Processor] = [structlog.processors.format_exc_info]
    if log_format == "json":
        renderers += [_without_layout, structlog.processors.JSONRenderer()]
    else:
        renderers.append(ConsoleLines(sys.stderr.isatty()))
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared(log_format),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    return handler


def _shared(log_format: LogFormat) -> list[Processor]:
    time = structlog.processors.TimeStamper(fmt="iso", utc=True)
    if log_format == "text":
        time = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        time,
    ]


class ConsoleLines:
    """Renders an event as a line: time, level above info, event, fields. With ``is_block``, a line for each field.

    The fields ``took_s`` and ``reason`` are part of the sentence: ``ready in 2.1 s``, ``engine died: no memory``.
    """

    def __init__(self, has_colors: bool) -> None:  # noqa: FBT001
        self._has_colors = has_colors

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> str:
        level: str = event["level"]
        head = self._styled(_DIM, event["timestamp"]) + " "
        if level in _STYLES:
            head += self._styled(_STYLES[level], f"{level}: ")
        fields = {name: _text(value) for name, value in event.items() if name not in _HIDDEN and value is not None}
        event_text = f"{event['event']}"
        if (took := fields.pop("took_s", None)) is not None:
            event_text += f" in {took} s"
        if (reason := fields.pop("reason", None)) is not None:
            event_text += f": {reason}"
        if event.get(_BLOCK):
            width = max(map(len, fields), default=0)
            lines = (f"\n  {name:{width}}  {value}" for name, value in fields.items())
            body = "".join(lines)
        else:
            body = "".join(f" {self._styled(_DIM, name + '=')}{value}" for name, value in fields.items())
        trace = f"\n{event['exception']}" if "exception" in event else ""
        return f"{head}{event_text}{body}{trace}"

    def _styled(self, style: str, text: str) -> str:
        return f"{style}{text}{_RESET}" if self._has_colors else text


def _is_no_probe(record: logging.LogRecord) -> bool:
    return not isinstance(record.msg, dict) or record.msg.get("path") not in PROBES


def _without_layout(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event.pop(_BLOCK, None)
    return event


def _text(value: object) -> str:
    """Return ``value`` on one line; what a terminal would obey is escaped, as callers choose paths and names."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
