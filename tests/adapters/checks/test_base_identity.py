"""Which base an adapter says it was made for, against the one that is served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.checks.base_identity import BaseIdentity
from adapters.errors import AdapterRefused
from adapters.storage.manifest import CONFIG_FILE

SERVED = BaseIdentity.of(("main", "Qwen/Qwen3-8B"), Path("models/of-the-server"), ("Qwen3ForCausalLM",))


Check = Callable[..., None]
"""Checks an adapter with these fields in its config."""


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def with_config(**config: Any) -> None:
        (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
        SERVED.check(tmp_path)

    return with_config


@pytest.mark.parametrize(
    "declared",
    [
        None,
        "",
        " ",
        "main",
        "Qwen/Qwen3-8B",
        "qwen3-8b",
        "/home/me/models/Qwen3-8B/",
        r"C:\models\Qwen3-8B",
        "/root/.cache/huggingface/hub/models--Qwen--Qwen3-8B/snapshots/0123abcd",
        "./of-the-server",
        "unsloth/Qwen3-8B-unsloth-bnb-4bit",
        "unsloth/qwen3-8b-bnb-4bit",
        "Qwen/Qwen3-8B-AWQ",
        "Qwen/Qwen3-8B-GPTQ-Int4",
        "Qwen/Qwen3-8B-FP8",
        "Qwen/Qwen3-8B-GGUF",
        "mlx-community/Qwen3-8B-8bit",
        "nvidia/Qwen3-8B-NVFP4",
        "unsloth/Qwen3-8B-BF16",
        "bartowski/Qwen3-8B-exl2",
        "Qwen/Qwen3-8B@main",
        "Qwen/Qwen-3-8B",
        "qwen/Qwen3_8B",
        "https://huggingface.co/Qwen/Qwen3-8B",
        "hf://Qwen/Qwen3-8B",
    ],
)
def test_the_served_base_by_any_of_its_names_is_the_same_base(check: Check, declared: str | None) -> None:
    check(base_model_name_or_path=declared)


@pytest.mark.parametrize(
    "declared",
    [
        "Qwen/Qwen3-8B-Base",
        "Qwen/Qwen3-4B",
        "Qwen/Qwen2.5-8B",
        "Qwen",
        "unsloth/Qwen3-4B-BF16",
        "Qwen/Qwen3-4B@Qwen3-8B",
        "x",
    ],
)
def test_another_base_is_refused_with_both_names_and_the_way_out(check: Check, declared: str) -> None:
    with pytest.raises(AdapterRefused) as refused:
        check(base_model_name_or_path=declared)
    [fault] = refused.value.faults
    assert fault.where == f"{CONFIG_FILE}: base_model_name_or_path"
    assert declared in fault.found
    assert "main" in fault.needed
    assert "--force-base" in fault.needed
    assert "force_base=true" in fault.needed


@pytest.mark.parametrize(
    "declared",
    [
        "./outputs/stage1-merged",
        "/input/data/model",
        "../merged",
        "~/models/mine",
        r"D:\work\merged",
        r".\merged",
        "file:///srv/models/mine",
        "s3://bucket/models/mine",
        "outputs/stage1-merged",
        "models/llama",
        "run/checkpoint-500",
        "checkpoint-500",
        "work/dir/of/mine/",
        "/root/.cache/modelscope/hub/models/LLM-Research/Llama-3___2-1B",
        "/content/drive/MyDrive/Other-7B",
    ],
)
def test_a_path_says_nothing_about_the_base_so_that_the_shapes_decide(check: Check, declared: str) -> None:
    check(base_model_name_or_path=declared)


@pytest.mark.parametrize(
    "declared",
    ["/root/.cache/huggingface/hub/models--Qwen--Qwen3-4B/snapshots/0123abcd", "https://huggingface.co/Qwen/Qwen3-4B"],
)
def test_a_place_that_names_a_model_of_the_hub_is_no_mere_path(check: Check, declared: str) -> None:
    with pytest.raises(AdapterRefused):
        check(base_model_name_or_path=declared)


@pytest.mark.parametrize(
    "spellings",
    [
        ["Qwen/Qwen2.5-7B-Instruct", "qwen/Qwen2___5-7B-Instruct", "unsloth/Qwen2.5-7B-Instruct-bnb-4bit"],
        ["meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B", "unsloth/Meta-Llama-3.1-8B-bnb-4bit"],
        ["meta-llama/Meta-Llama-3-8B-Instruct", "LLM-Research/Meta-Llama-3-8B-Instruct", "unsloth/llama-3-8b-Instruct"],
        ["meta-llama/Llama-2-7b-hf", "NousResearch/Llama-2-7b", "meta-llama/Llama-2-7b"],
        ["microsoft/Phi-3.5-mini-instruct", "unsloth/Phi3.5-mini-instruct", "LLM-Research/Phi-3___5-mini-instruct"],
    ],
)
def test_every_known_spelling_of_a_name_means_one_base(tmp_path: Path, spellings: list[str]) -> None:
    for served in spellings:
        identity = BaseIdentity.of((served,), Path("models/of-the-server"), ())
        for declared in spellings:
            (tmp_path / CONFIG_FILE).write_text(json.dumps({"base_model_name_or_path": declared}))
            identity.check(tmp_path)


@pytest.mark.parametrize(
    "named", ["Qwen3ForCausalLM", "Qwen3Model", "PeftModelForCausalLM", "OptimizedModule", "", None, 3]
)
def test_a_class_of_the_same_architecture_or_of_none_is_admitted(check: Check, named: object) -> None:
    check(auto_mapping={"base_model_class": named, "parent_library": "transformers"})


def test_a_class_of_another_architecture_is_refused(check: Check) -> None:
    with pytest.raises(AdapterRefused) as refused:
        check(base_model_name_or_path="main", auto_mapping={"base_model_class": "LlamaForCausalLM"})
    [fault] = refused.value.faults
    assert fault.where == f"{CONFIG_FILE}: auto_mapping.base_model_class"
    assert ("LlamaForCausalLM" in fault.found, "Qwen3" in fault.needed) == (True, True)


@pytest.mark.parametrize("declared", ["org/tiny", "tiny", "0123abcd", "main"])
def test_a_base_from_the_hubs_cache_is_known_by_its_name_there_and_by_its_commit(tmp_path: Path, declared: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"base_model_name_or_path": declared}))
    BaseIdentity.of(("main",), Path("/cache/models--org--tiny/snapshots/0123abcd"), ()).check(tmp_path)


@pytest.mark.parametrize("config", [b"", b"[]", b"{", b"\xff", b'{"base_model_name_or_path": 3, "auto_mapping": []}'])
def test_a_config_that_cannot_be_read_is_left_to_the_inspection(tmp_path: Path, config: bytes) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(config)
    SERVED.check(tmp_path)


@pytest.mark.parametrize("name", ["models--" * 100_000, "-awq_a" * 100_000 + "!", "a1" * 100_000, "--" * 100_000])
def test_a_name_without_end_takes_no_time(check: Check, name: str) -> None:
    with pytest.raises(AdapterRefused):
        check(base_model_name_or_path=f"{name}x", auto_mapping={"base_model_class": "ForA" * 50_000 + "!"})
    check(base_model_name_or_path="/" * 100_000 + name)
