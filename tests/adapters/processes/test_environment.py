"""Secrets reach no child that does not need them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters.processes.child import NICENESS, child_environment
from adapters.processes.line_process import LineProcess
from trainer.child import training_environment
from trainer.run_directory import RunDirectory

SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "OPENAI_API_KEY",
    "PATCHBAY_API_KEY",
    "PATCHBAY_DATABASE_URL",
    "PGPASSWORD",
    "WANDB_API_KEY",
)
HARMLESS = ("CUDA_VISIBLE_DEVICES", "HF_HOME", "HOME", "NCCL_SOCKET_IFNAME", "TOKENIZERS_PARALLELISM", "WANDB_MODE")


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SECRETS, *HARMLESS):
        monkeypatch.setenv(name, "set")


def test_a_child_that_reads_uploads_gets_nothing_but_what_it_needs_to_import() -> None:
    assert "set" not in child_environment().values()
    assert child_environment(threads=3)["OMP_NUM_THREADS"] == "3"


def test_an_inheriting_child_gets_no_secret() -> None:
    environment = child_environment(inherits=True)
    assert [name for name in SECRETS if name in environment] == []
    assert [name for name in HARMLESS if name not in environment] == []


def test_a_run_that_reports_to_wandb_gets_its_key_and_no_other(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert "WANDB_API_KEY" not in training_environment(run)
    run.write_integrations([{"type": "wandb", "wandb": {"project": "p"}}])
    assert [name for name in SECRETS if name in training_environment(run)] == ["WANDB_API_KEY"]


async def test_a_child_is_killed_before_the_engine_when_memory_ends() -> None:
    process = await LineProcess.start("adapters.lora.diff")
    try:
        assert Path(f"/proc/{process.process_id}/oom_score_adj").read_text() == "800\n"
    finally:
        await process.aclose()


async def test_a_child_comes_after_requests_although_it_has_a_session_of_its_own() -> None:
    process = await LineProcess.start("adapters.lora.diff")
    try:
        group = Path(f"/proc/{process.process_id}/autogroup")
        if not group.exists():
            pytest.skip("this kernel shares processors between processes alone")
        assert group.read_text().endswith(f" nice {min(19, os.nice(0) + NICENESS)}\n")
    finally:
        await process.aclose()
