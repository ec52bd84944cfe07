"""vLLM's own flags, through vLLM's own parser."""

from __future__ import annotations

import dataclasses
import logging
from argparse import Namespace
from pathlib import Path
from typing import get_args

import pytest
from vllm.config.lora import MaxLoRARanks
from vllm.entrypoints.launchers.cli_args import FrontendArgs

from adapters.lora.ranks import SERVABLE_RANKS
from server.engine.protocol import StartRefused
from server.engine.vllm.flags import (
    EMBEDDED_FLAGS,
    OWNED,
    PASSED,
    SLOTS,
    SPARE_HOST_ADAPTERS,
    dest_of,
    parse_flags,
)


def parse(*flags: str) -> Namespace:
    return parse_flags("org/model", flags, capacity=8)


VALUES = {
    "--data-parallel-supervisor-port": "1",
    "--dp-supervisor-probe-interval-s": "1",
    "--dp-supervisor-probe-timeout-s": "1",
    "--dp-supervisor-probe-failure-threshold": "1",
    "--grpc-port": "1",
    "--host": "::1",
    "--port": "1",
    "--ssl-ca-certs": "x",
    "--ssl-cert-reqs": "1",
    "--ssl-ciphers": "x",
    "--allowed-origins": '["*"]',
    "--allowed-methods": '["GET"]',
    "--allowed-headers": '["x"]',
    "--root-path": "/x",
    "--uvicorn-log-level": "debug",
    "--disable-access-log-for-endpoints": "/health",
    "--h11-max-incomplete-event-size": "1",
    "--h11-max-header-count": "1",
    "--max-cpu-loras": "9",
    "--lora-modules": "a=b",
    "--model": "org/other",
    "--api-key": "x",
    "--api-server-count": "2",
    "--data-parallel-size": "2",
    "--worker-extension-cls": "a.B",
    "--uds": "x",
    "--ssl-keyfile": "x",
    "--ssl-certfile": "x",
}


@pytest.mark.parametrize("flag", OWNED)
def test_a_flag_that_is_ours_is_refused_with_what_to_use_instead(flag: str) -> None:
    value = [VALUES[flag]] if flag in VALUES else []
    typed = f"--no-{flag[2:]}" if getattr(parse(), dest_of(flag)) is True and flag != "--enable-lora" else flag
    for spelling in (typed, "--" + typed[2:].replace("-", "_")):
        with pytest.raises(StartRefused) as refused:
            parse(spelling, *value)
        assert f"{flag} is patchbay's to set: {OWNED[flag]}" in str(refused.value)


@pytest.mark.parametrize(
    "flags", [("-dp", "2"), ("-asc", "2"), ("--api-ke", "x"), ("--headles",), ("--lora-mod", "a=b")]
)
def test_a_flag_that_is_ours_is_refused_in_its_short_forms_too(flags: tuple[str, ...]) -> None:
    with pytest.raises(StartRefused, match="is patchbay's to set"):
        parse(*flags)


def test_a_flag_that_is_ours_is_refused_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "vllm.yaml").write_text("max-loras: 3\n")
    assert parse("--config", str(tmp_path / "vllm.yaml")).max_loras == 3
    (tmp_path / "vllm.yaml").write_text("api-key: x\n")
    with pytest.raises(StartRefused, match="--api-key is patchbay's to set"):
        parse("--config", str(tmp_path / "vllm.yaml"))
    with pytest.raises(StartRefused, match="No such file"):
        parse("--config", str(tmp_path / "none.yaml"))


def test_there_is_a_decision_for_each_flag_of_vllm_s_http_server() -> None:
    flags = {field.name for field in dataclasses.fields(FrontendArgs)} | {
        "headless",
        "api_server_count",
        "config",
        "grpc",
    }
    passed, owned = ({dest_of(flag) for flag in some} for some in (PASSED, OWNED))
    assert flags - passed - owned == set(), "decide whether it works here, or what to use instead"
    assert passed - flags == set(), "vLLM has this flag no more"
    assert passed & owned == set()


def test_all_flags_that_are_refused_are_named_at_once() -> None:
    with pytest.raises(StartRefused) as refused:
        parse("--root-path", "/x", "--enable-scale-out")
    assert all(flag in str(refused.value) for flag in ("--root-path", "--enable-scale-out"))


def test_how_a_named_backend_writes_white_space_is_the_operator_s_choice() -> None:
    for value in (True, False):
        chosen = parse(
            "--structured-outputs-config", f'{{"backend": "xgrammar", "disable_any_whitespace": {str(value).lower()}}}'
        )
        assert chosen.structured_outputs_config.disable_any_whitespace is value
    for flags in (
        ("--structured-outputs-config", '{"disable_any_whitespace": false}'),
        ("--structured-outputs-config.disable_any_whitespace", "false"),
    ):
        with pytest.raises(StartRefused, match="name one too"):
            parse(*flags)


def test_a_log_of_requests_that_nobody_would_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("vllm")
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    with pytest.raises(StartRefused, match="VLLM_LOGGING_LEVEL=INFO"):
        parse("--enable-log-requests")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--max-lorax", "3"), "--max-lorax"),
        (("--max-loras", "three"), "three"),
        (("--max-lora-rank", "7"), "7"),
        (("--max-loras",), "expected one argument"),
    ],
)
def test_a_flag_that_vllm_does_not_take_is_refused_in_one_line(
    flags: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StartRefused) as refused:
        parse(*flags)
    assert reason in str(refused.value)
    assert "--help-engine" in str(refused.value)
    assert "usage:" not in capsys.readouterr().err


def test_lora_is_on_and_vllm_s_own_eviction_never_acts() -> None:
    args = parse("--max-loras", "3")
    assert (args.model, args.enable_lora, args.max_loras) == ("org/model", True, 3)
    assert args.max_cpu_loras == 8 + 3 + SPARE_HOST_ADAPTERS


def test_adapters_share_batches_where_the_operator_says_nothing_and_no_more_of_them_than_residents() -> None:
    assert parse().max_loras == SLOTS
    assert parse_flags("org/model", (), capacity=2).max_loras == 2
    assert parse("--max-loras", "1").max_loras == 1


def test_what_the_operator_types_wins_over_what_the_embedded_base_needs() -> None:
    args = parse(*EMBEDDED_FLAGS, "--served-model-name", "mine", "--max-lora-rank", "32")
    assert (args.served_model_name, args.max_lora_rank, args.enforce_eager) == (["mine"], 32, True)


def test_the_ranks_that_the_checks_advise_are_those_that_vllm_takes() -> None:
    assert get_args(MaxLoRARanks) == SERVABLE_RANKS
