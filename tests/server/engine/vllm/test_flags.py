"""vLLM's own flags, through vLLM's own parser."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import get_args

import pytest
from vllm.config.lora import MaxLoRARanks

from adapters.lora.ranks import SERVABLE_RANKS
from server.engine.protocol import StartRefused
from server.engine.vllm.flags import EMBEDDED_FLAGS, OWNED, SLOTS, SPARE_HOST_ADAPTERS, parse_flags


def parse(*flags: str) -> Namespace:
    return parse_flags("org/model", flags, capacity=8)


VALUES = {
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
    for spelling in (flag, "--" + flag[2:].replace("-", "_")):
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
