"""What vLLM's processes log: in patchbay's form to standard error, and failures with their cause in a file.

vLLM applies the ``dictConfig`` that ``VLLM_LOGGING_CONFIG_PATH`` names in each of its processes. So this module is
imported in all of them, before anything else of the engine. The server reads the file when an engine has ended.
"""

import json
import logging
import multiprocessing
import re
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from server.logs import LogFormat, LogLevel, console_handler

_LEVELS: Final = {"debug": "INFO", "info": "WARNING", "warning": "WARNING", "error": "ERROR"}
"""vLLM's level for each of ours: what it calls information is for its developers."""
_PROGRESS: Final = {
    "vllm.model_executor.model_loader.default_loader": {"Loading weights took %.2f seconds": "weights loaded"},
    "vllm.v1.worker.cpu_model_runner": {
        "Starting to load model": "loading the weights",
        "Warming up model for the compilation": "compiling the model",
    },
    "vllm.v1.worker.gpu_model_runner": {
        "Starting to load model": "loading the weights",
        "Graph capturing finished": "CUDA graphs captured",
    },
    "vllm.v1.core.kv_cache_utils": {
        "%s KV cache size": "KV cache allocated for {1} tokens",
        "Auto-fit max_model_len: reduced": "the context is {1} tokens, not {0}: no more fits in the KV cache "
        "(--kv-cache-memory-bytes, --max-model-len)",
    },
}
"""Steps of a start that take long: by logger, how the message begins, and what the console shows in its place."""
_EXECUTOR: Final = "vllm.v1.executor.multiproc_executor"
"""Logs that a worker has ended, after the worker has logged why."""
_UNKNOWN_MODEL: Final = "Error with model %s"
_OTHER_RANK: Final = re.compile(r"(?:TP|PP|DP|EP)[1-9]")
_PLAIN_KINDS: Final = frozenset({"Exception", "RuntimeError", "ValidationError", "ValueError"})
_LONGEST_CAUSE: Final = 600


@dataclass(frozen=True, slots=True)
class LoggedFailure:
    """An exception that a process of vLLM logged."""

    process: str
    kind: str
    """Name of the exception's class."""
    cause: str
    """The exception's message in one line."""
    trace: str

    @property
    def summary(self) -> str:
        """The cause, with the exception's class where it says more than that there was an error."""
        return self.cause if self.kind in _PLAIN_KINDS or self.kind == self.cause else f"{self.kind}: {self.cause}"


@dataclass(frozen=True, slots=True)
class ProcessLogs:
    """The logs of vLLM's processes in ``directory``: their ``dictConfig``, and the file of their failures."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "logging.json"

    @property
    def failures(self) -> Path:
        """One JSON object a line; the first one since the start of an engine is the cause of those after it."""
        return self.directory / "failures.jsonl"

    def write(self, log_format: LogFormat, level: LogLevel, engine_level: str | None) -> None:
        """Write the ``dictConfig``. ``engine_level`` is vLLM's level where the operator set one."""
        self.directory.mkdir(parents=True, exist_ok=True)
        is_complete = log_format == "json" or level == "debug" or engine_level is not None
        shown = engine_level or (_LEVELS[level] if is_complete else "ERROR")
        console = {
            "()": f"{__name__}.engine_console",
            "log_format": log_format,
            "least": shown,
            "is_complete": is_complete,
        }
        handlers = {"console": console, "failures": {"()": f"{__name__}.FailureFile", "path": str(self.failures)}}
        progress = _PROGRESS if level in ("debug", "info") else {}
        loggers: dict[str, Any] = {name: {"level": "INFO"} for name in progress}
        loggers["vllm"] = {"handlers": list(handlers), "level": shown, "propagate": False}
        loggers["py.warnings"] = {"handlers": ["console"], "level": shown, "propagate": False}
        config = {"version": 1, "disable_existing_loggers": False, "handlers": handlers, "loggers": loggers}
        self.config.write_text(json.dumps(config))

    def forget(self) -> None:
        """Forget the failures of an earlier engine."""
        self.failures.unlink(missing_ok=True)

    def first_failure(self) -> LoggedFailure | None:
        """Return the failure that led to all others; None if no process has logged any."""
        return next(self._failures(), None)

    def _failures(self) -> Iterator[LoggedFailure]:
        if self.failures.exists():
            for line in self.failures.read_text().splitlines():
                yield LoggedFailure(**json.loads(line))


def engine_console(*, log_format: LogFormat, least: str, is_complete: bool) -> logging.Handler:
    """Return the handler for the records of vLLM that a console shows: progress, and those of the level ``least``.

    Unless ``is_complete``, it leaves out what the server says itself.
    """
    logging.captureWarnings(True)
    handler = console_handler(log_format)
    handler.addFilter(_ConsoleFilter(logging.getLevelNamesMapping()[least], is_complete=is_complete))
    return handler


class _ConsoleFilter(logging.Filter):
    """Passes progress in our words, and records of a level."""

    def __init__(self, least: int, *, is_complete: bool) -> None:
        super().__init__()
        self._least = least
        self._is_complete = is_complete

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.INFO and (progress := _progress(record)) is not None:
            record.msg, record.args = progress, ()
            return True
        return record.levelno >= self._least and (self._is_complete or not _is_said_by_the_server(record))


def _is_said_by_the_server(record: logging.LogRecord) -> bool:
    """Whether the server says the same: a model is unknown, a child fails, a request ends with the engine's death."""
    if record.msg == _UNKNOWN_MODEL:
        return True
    if record.exc_info and record.exc_info[0] is not None and record.exc_info[0].__name__ == "EngineDeadError":
        return True
    return multiprocessing.parent_process() is not None and (bool(record.exc_info) or record.name == _EXECUTOR)


def _progress(record: logging.LogRecord) -> str | None:
    for beginning, words in _PROGRESS.get(record.name, {}).items():
        if str(record.msg).startswith(beginning) and not _OTHER_RANK.search(_process(record)):
            arguments = record.args if isinstance(record.args, tuple) else ()
            return words.format(*arguments)
    return None


class FailureFile(logging.Handler):
    """Writes the exceptions that vLLM's processes log as errors to a file, one a line."""

    def __init__(self, path: str) -> None:
        super().__init__(logging.ERROR)
        self._path = Path(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the exception of ``record``, unless this is the server's own process."""
        if record.exc_info is None or record.exc_info[1] is None or multiprocessing.parent_process() is None:
            return
        why = record.exc_info[1]
        trace = "".join(traceback.format_exception(why))
        failure = LoggedFailure(_process(record), type(why).__name__, one_line(why), trace)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(failure)) + "\n")


def one_line(why: BaseException) -> str:
    """Return an exception's message in one line, without pydantic's frame; its class if it has no message."""
    errors: Any = getattr(why, "errors", None)
    text = "; ".join(str(each["msg"]) for each in errors()) if callable(errors) else str(why)
    text = " ".join(text.split()).removeprefix("Value error, ")
    return text[:_LONGEST_CAUSE] or type(why).__name__


def _process(record: logging.LogRecord) -> str:
    return str(getattr(record, "vllm_process_name", record.processName))
