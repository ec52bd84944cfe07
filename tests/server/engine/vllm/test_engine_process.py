"""Spawned processes of vLLM: quiet when they fail, and out of reach of a terminal's Ctrl-C."""

from __future__ import annotations

import os
import time

import pytest

from server.engine.vllm.engine_process import EngineContext, run_quietly
from tests.until import Until


def test_a_failure_is_an_exit_status_and_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    process = EngineContext().Process(target=int, args=("no number",))
    process.start()
    process.join()
    assert process.exitcode == 1
    assert "Traceback" not in capfd.readouterr().err


async def test_a_process_has_a_session_of_its_own(until: Until) -> None:
    process = EngineContext().Process(target=time.sleep, args=(60,))
    process.start()
    try:
        await until(lambda: os.getsid(process.pid or 0) == process.pid)
    finally:
        process.terminate()
        process.join()


def test_an_order_to_exit_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave() -> None:
        raise SystemExit(0)

    monkeypatch.setattr(os, "setsid", lambda: None)
    with pytest.raises(SystemExit) as left:
        run_quietly(leave)
    assert left.value.code == 0
