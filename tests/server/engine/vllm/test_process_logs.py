"""What the processes of vLLM log: what a console shows of it, and the cause of a failure in a file."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from server.engine.vllm.process_logs import LoggedFailure, ProcessLogs, one_line

ROOT = Path(__file__).parents[4]
CHILD = """
import logging.config, json, sys, warnings
from multiprocessing import get_context

def work(config):
    logging.config.dictConfig(json.load(open(config)))
    logging.getLogger("vllm.v1.worker.cpu_model_runner").info("Starting to load model %s...", "a/b")
    logging.getLogger("vllm.v1.worker.cpu_model_runner").info("something for developers")
    logging.getLogger("vllm.v1.core.kv_cache_utils").info("%s KV cache size: %s tokens, %s", "CPU", "1,024", "2x")
    fitted = "Auto-fit max_model_len: reduced from %d to %d to fit in available KV cache memory (%s)"
    logging.getLogger("vllm.v1.core.kv_cache_utils").info(fitted, 40960, 8192, "1 GiB")
    logging.getLogger("vllm.platforms").warning("a warning of vLLM")
    logging.getLogger("vllm.platforms").error("an error of vLLM")
    logging.getLogger("vllm.entrypoints").error("Error with model %s", "of a request")
    warnings.warn("old name", FutureWarning)
    for why in (ValueError("no memory\\n on node 0"), RuntimeError("see above")):
        try:
            raise why
        except Exception:
            logging.getLogger("vllm.v1.executor").exception("WorkerProc failed to start.")

if __name__ == "__main__":
    child = get_context("spawn").Process(target=work, args=(sys.argv[1],))
    child.start()
    child.join()
"""


@pytest.fixture
def logs(tmp_path: Path) -> ProcessLogs:
    return ProcessLogs(tmp_path / "engine")


@pytest.fixture
def child(tmp_path: Path) -> Path:
    """A program that logs in a child process as vLLM's worker does."""
    path = tmp_path / "child.py"
    path.write_text(CHILD)
    return path


def output(child: Path, logs: ProcessLogs) -> list[str]:
    command, variables = [sys.executable, str(child), str(logs.config)], {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=variables).stderr.splitlines()


def test_a_console_shows_progress_in_our_words_and_errors_without_traces(logs: ProcessLogs, child: Path) -> None:
    logs.write("text", "info", None)
    texts = [line.partition(" ")[2] for line in output(child, logs)]
    assert texts[:2] == ["loading the weights", "KV cache allocated for 1,024 tokens"]
    assert texts[2].startswith("the context is 8192 tokens, not 40960: no more fits in the KV cache")
    assert texts[3:] == ["error: an error of vLLM"]


def test_json_has_warnings_and_traces_too(logs: ProcessLogs, child: Path) -> None:
    logs.write("json", "info", None)
    events = [json.loads(line) for line in output(child, logs)]
    assert [event["event"] for event in events][3:5] == ["a warning of vLLM", "an error of vLLM"]
    assert "ValueError: no memory" in events[-2]["exception"]


def test_debug_shows_what_vllm_says_to_its_developers(logs: ProcessLogs, child: Path) -> None:
    logs.write("text", "debug", None)
    shown = "\n".join(output(child, logs))
    for text in ("something for developers", "a warning of vLLM", "FutureWarning", "ValueError: no memory"):
        assert text in shown


def test_the_operators_own_level_for_vllm_counts(logs: ProcessLogs, child: Path) -> None:
    logs.write("text", "info", "WARNING")
    assert any("a warning of vLLM" in line for line in output(child, logs))


def test_the_first_failure_of_a_process_is_kept_with_cause_and_trace(logs: ProcessLogs, child: Path) -> None:
    logs.write("text", "info", None)
    assert logs.first_failure() is None
    output(child, logs)
    failure = logs.first_failure()
    assert failure is not None
    assert (failure.kind, failure.cause, failure.summary) == ("ValueError", *["no memory on node 0"] * 2)
    assert "in work" in failure.trace
    logs.forget()
    assert logs.first_failure() is None


def test_a_failure_names_its_class_where_the_message_says_too_little() -> None:
    assert LoggedFailure("Worker", "KeyError", "'rope'", "").summary == "KeyError: 'rope'"
    assert LoggedFailure("Worker", "AssertionError", "AssertionError", "").summary == "AssertionError"


def test_a_message_becomes_one_line_of_bounded_length() -> None:
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(AssertionError()) == "AssertionError"
    assert len(one_line(ValueError("x" * 10_000))) < 1000
    with pytest.raises(ValidationError) as invalid:
        TypeAdapter(int).validate_python("many")
    assert one_line(invalid.value).startswith("Input should be a valid integer")
    assert multiprocessing.parent_process() is None
