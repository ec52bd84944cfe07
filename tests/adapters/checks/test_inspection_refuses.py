"""Every kind of bad adapter that we know of is refused, with where it is wrong and the way out."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from adapters.base_model import BaseModel
from adapters.checks.inspection import AdapterLimits, inspect_adapter
from adapters.errors import MAX_FAULTS, AdapterRefused
from tests.adapters.checks.conftest import AdapterFiles, Admit, MakeAdapter, Refuse

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
Q0 = f"{PREFIX}model.layers.0.self_attn.q_proj"
Q0_A, Q0_B = f"{Q0}.lora_A.weight", f"{Q0}.lora_B.weight"


Spoil = Callable[[AdapterFiles], object]


class Kind(NamedTuple):
    """One kind of bad adapter: how to make it of a good one, and what the fault must say."""

    spoil: Spoil
    where: str
    needed: str


def setting(field: str, value: object) -> Spoil:
    def spoil(adapter: AdapterFiles) -> None:
        adapter.config[field] = value

    return spoil


def lacking(field: str) -> Spoil:
    return lambda adapter: adapter.config.pop(field)


def with_file(name: str, data: bytes = b"x") -> Spoil:
    def spoil(adapter: AdapterFiles) -> None:
        adapter.extra[name] = data

    return spoil


def cut(kept: int) -> Spoil:
    def spoil(adapter: AdapterFiles) -> None:
        adapter.extra[WEIGHTS] = adapter.weights()[:kept]

    return spoil


def poisoned(number: float) -> Spoil:
    return lambda adapter: adapter.poison(Q0_B, number)


def dropped(key: str) -> Spoil:
    return lambda adapter: adapter.tensors.pop(key)


def put(key: str, shape: tuple[int, ...], dtype: str = "F32") -> Spoil:
    return lambda adapter: adapter.put(key, np.ones(shape), dtype)


def renamed(old: str, new: str) -> Spoil:
    return lambda adapter: adapter.rename(old, new)


def zeroed(side: str) -> Spoil:
    def spoil(adapter: AdapterFiles) -> None:
        for key in adapter.tensors:
            if f"lora_{side}" in key:
                adapter.put(key, np.zeros_like(adapter.array(key)))

    return spoil


def emptied(adapter: AdapterFiles) -> None:
    adapter.tensors.clear()


def for_rank(rank: int) -> Spoil:
    """An adapter whose tensors and config agree on ``rank``."""

    def spoil(adapter: AdapterFiles) -> None:
        adapter.config["r"] = rank
        for key in adapter.tensors:
            array = adapter.array(key)
            adapter.put(key, np.ones((rank, array.shape[1]) if "lora_A" in key else (array.shape[0], rank)))

    return spoil


def both_prefixed_and_not(adapter: AdapterFiles) -> None:
    adapter.tensors[Q0_A.removeprefix(PREFIX)] = adapter.tensors[Q0_A]


def deeper(adapter: AdapterFiles) -> None:
    adapter.tensors[Q0_A.replace("layers.0", "layers.7")] = adapter.tensors[Q0_A]
    adapter.tensors[Q0_B.replace("layers.0", "layers.7")] = adapter.tensors[Q0_B]


def for_hidden_size(hidden: int) -> Spoil:
    def spoil(adapter: AdapterFiles) -> None:
        for key in adapter.tensors:
            array = adapter.array(key)
            adapter.put(key, np.ones((8, hidden) if "lora_A" in key else (array.shape[0], 8)))

    return spoil


def swapped(adapter: AdapterFiles) -> None:
    adapter.tensors[Q0_A], adapter.tensors[Q0_B] = adapter.tensors[Q0_B], adapter.tensors[Q0_A]


def extra_target(adapter: AdapterFiles) -> None:
    adapter.config["target_modules"].append("o_proj")


KINDS = {
    # files
    "no config": Kind(lambda a: a.without.add(CONFIG), CONFIG, "save_pretrained"),
    "no weights": Kind(lambda a: a.without.add(WEIGHTS), WEIGHTS, "safe_serialization=True"),
    "a pickle beside it": Kind(with_file("adapter_model.bin", pickle.dumps({})), "adapter_model.bin", "safetensors"),
    "optimizer state": Kind(with_file("optimizer.pt"), "optimizer.pt", "pickle can execute code"),
    "training arguments": Kind(with_file("training_args.bin"), "training_args.bin", "pickle can execute code"),
    "code": Kind(with_file("modeling.py"), "modeling.py", "remove it"),
    "a tokenizer": Kind(with_file("tokenizer.json"), "tokenizer.json", "remove it"),
    "an odd file name": Kind(with_file("\u202egnp.exe"), r"\u202egnp.exe", "remove it"),
    "a config too large": Kind(with_file(CONFIG, b" " * (2 << 20)), CONFIG, "at most 1048576"),
    # header
    "empty file": Kind(cut(0), WEIGHTS, "send the whole file again"),
    "cut in the header": Kind(cut(100), WEIGHTS, "send it again"),
    "cut in the data": Kind(cut(-1), WEIGHTS, "send it again"),
    "a pickle by name of weights": Kind(with_file(WEIGHTS, pickle.dumps([1] * 99)), WEIGHTS, "safetensors file"),
    "a Git LFS pointer": Kind(with_file(WEIGHTS, b"version https://git-lfs"), WEIGHTS, "safetensors file"),
    "no tensors": Kind(emptied, WEIGHTS, "gather"),
    # config
    "config is not JSON": Kind(with_file(CONFIG, b"{'r': 8}"), CONFIG, "save_pretrained"),
    "lora_alpha is null": Kind(setting("lora_alpha", None), f"{CONFIG}: lora_alpha", "a number above 0"),
    "no r": Kind(lacking("r"), f"{CONFIG}: r", "the rank"),
    "no target_modules": Kind(lacking("target_modules"), f"{CONFIG}: target_modules", "list of module names"),
    "empty target_modules": Kind(setting("target_modules", []), f"{CONFIG}: target_modules", "names"),
    "LoHa": Kind(setting("peft_type", "LOHA"), f"{CONFIG}: peft_type", "save_as_lora"),
    "no peft_type": Kind(lacking("peft_type"), f"{CONFIG}: peft_type", "LORA"),
    "DoRA": Kind(setting("use_dora", True), f"{CONFIG}: use_dora", "use_dora=False"),
    "bias": Kind(setting("bias", "all"), f"{CONFIG}: bias", "without biases"),
    "lora_bias": Kind(setting("lora_bias", True), f"{CONFIG}: lora_bias", "lora_bias=False"),
    "modules_to_save": Kind(setting("modules_to_save", ["lm_head"]), f"{CONFIG}: modules_to_save", "LoRA on these"),
    "PiSSA": Kind(
        setting("init_lora_weights", "pissa_niter_4"),
        f"{CONFIG}: init_lora_weights",
        "path_initial_model_for_weight_conversion",
    ),
    "OLoRA": Kind(setting("init_lora_weights", "olora"), f"{CONFIG}: init_lora_weights", "convert"),
    "CorDA": Kind(setting("init_lora_weights", "corda"), f"{CONFIG}: init_lora_weights", "convert"),
    "LoftQ": Kind(setting("init_lora_weights", "loftq"), f"{CONFIG}: init_lora_weights", "init_lora_weights=true"),
    "layer replication": Kind(setting("layer_replication", [[0, 2]]), f"{CONFIG}: layer_replication", "as it is"),
    "trained tokens": Kind(setting("trainable_token_indices", [1]), f"{CONFIG}: trainable_token_indices", "tokenizer"),
    "bare parameters": Kind(setting("target_parameters", ["w"]), f"{CONFIG}: target_parameters", "target_modules"),
    "aLoRA": Kind(setting("alora_invocation_tokens", [1]), f"{CONFIG}: alora_invocation_tokens", "plain LoRA"),
    "KaSA": Kind(setting("kasa_config", {"beta": 1}), f"{CONFIG}: kasa_config", "plain LoRA"),
    "QALoRA": Kind(setting("use_qalora", True), f"{CONFIG}: use_qalora", "use_qalora=False"),
    "BD-LoRA": Kind(setting("use_bdlora", {"nblocks": 2}), f"{CONFIG}: use_bdlora", "plain LoRA"),
    "Arrow": Kind(setting("arrow_config", {"top_k": 2}), f"{CONFIG}: arrow_config", "plain adapter"),
    "MonteCLoRA": Kind(setting("monteclora_config", {"x": 1}), f"{CONFIG}: monteclora_config", "plain LoRA"),
    "another task": Kind(setting("task_type", "SEQ_CLS"), f"{CONFIG}: task_type", "CAUSAL_LM"),
    "an unknown field": Kind(setting("use_magic", True), f"{CONFIG}: use_magic", "train without it"),
    # rank
    "rank above the server's": Kind(for_rank(20), f"{CONFIG}: r", "--max-lora-rank 32"),
    "rank above the engine's": Kind(for_rank(600), f"{CONFIG}: r", "at most 512"),
    "a pattern's rank above the server's": Kind(
        setting("rank_pattern", {"unused": 100}), f"{CONFIG}: rank_pattern.unused", "--max-lora-rank 128"
    ),
    "config r below the tensors'": Kind(setting("r", 4), f"{WEIGHTS}: {Q0_A}", "rank 4 is what r"),
    "config r above the tensors'": Kind(setting("r", 16), f"{WEIGHTS}: {Q0_B}", "rank 16 is what r"),
    "a pattern's rank unlike the tensors'": Kind(
        setting("rank_pattern", {"layers.0.self_attn.q_proj": 2}), f"{WEIGHTS}: {Q0_A}", "rank 2 is what r"
    ),
    # shapes and keys
    "smaller base": Kind(for_hidden_size(8), f"{WEIGHTS}: {Q0_A}", "[8, 16]: train on tiny"),
    "larger base": Kind(for_hidden_size(32), f"{WEIGHTS}: {Q0_A}", "[8, 16]: train on tiny"),
    "deeper base": Kind(deeper, f"{WEIGHTS}: {Q0_A.replace('layers.0', 'layers.7')}", "deeper model"),
    "A and B swapped": Kind(swapped, f"{WEIGHTS}: {Q0_A}", "[8, 16]"),
    "one-dimensional A": Kind(put(Q0_A, (128,)), f"{WEIGHTS}: {Q0_A}", "[8, 16]"),
    "convolution B": Kind(put(Q0_B, (16, 8, 1, 1)), f"{WEIGHTS}: {Q0_B}", "[16, 8]"),
    "no lora_B": Kind(dropped(Q0_B), f"{WEIGHTS}: {Q0_A}", "both factors"),
    "no lora_A": Kind(dropped(Q0_A), f"{WEIGHTS}: {Q0_B}", "both factors"),
    "a prefix that no tool is known to give": Kind(
        renamed(f"{PREFIX}model.", f"{PREFIX}backbone."),
        f"{WEIGHTS}: {PREFIX}backbone.layers.0.self_attn.q_proj.lora_A.weight",
        "a linear layer of tiny",
    ),
    "one module by two names": Kind(put(f"_orig_mod.{Q0_A}", (8, 16)), f"{WEIGHTS}: _orig_mod.{Q0_A}", "one of them"),
    "the keys of two adapters": Kind(renamed("lora_A.weight", "lora_A.default.weight"), WEIGHTS, "one adapter"),
    "another library's keys": Kind(renamed("lora_A", "lora_down"), f"{WEIGHTS}: {Q0}.lora_down.weight", "lora_A"),
    "LoHa keys": Kind(renamed("lora_A.weight", "hada_w1_a"), f"{WEIGHTS}: {Q0}.hada_w1_a", "save_as_lora"),
    "LoKr keys": Kind(renamed("lora_A.weight", "lokr_w1"), f"{WEIGHTS}: {Q0}.lokr_w1", "save_as_lora"),
    "DoRA keys": Kind(
        put(f"{Q0}.lora_magnitude_vector", (16,)), f"{WEIGHTS}: {Q0}.lora_magnitude_vector", "this is DoRA"
    ),
    "bias keys": Kind(put(f"{Q0}.lora_B.bias", (16,)), f"{WEIGHTS}: {Q0}.lora_B.bias", "lora_bias=False"),
    "keys of changed tokens": Kind(
        put(f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta", (2, 16)),
        f"{WEIGHTS}: {PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta",
        "without trainable_token_indices",
    ),
    "a resized vocabulary": Kind(
        put(f"{PREFIX}model.embed_tokens.weight", (41, 16)),
        f"{WEIGHTS}: {PREFIX}model.embed_tokens.weight",
        "without adding tokens",
    ),
    "one module twice": Kind(both_prefixed_and_not, f"{WEIGHTS}: {Q0_A.removeprefix(PREFIX)}", "one of them"),
    "a module of another family": Kind(
        renamed("self_attn.q_proj", "attention.query"),
        f"{WEIGHTS}: {PREFIX}model.layers.0.attention.query.lora_A.weight",
        "a linear layer of tiny",
    ),
    "the tied head": Kind(
        renamed("model.layers.0.self_attn.q_proj", "lm_head"),
        f"{WEIGHTS}: {PREFIX}lm_head.lora_A.weight",
        "embeddings are tied",
    ),
    "a copy of the tied embedding": Kind(
        put(f"{PREFIX}model.embed_tokens.base_layer.weight", (40, 16)),
        f"{WEIGHTS}: {PREFIX}model.embed_tokens.base_layer.weight",
        "embeddings are tied",
    ),
    "a target without tensors": Kind(extra_target, f"{CONFIG}: target_modules", "tensors for each target"),
    "tensors without a target": Kind(
        setting("target_modules", ["v_proj"]), f"{CONFIG}: target_modules", "PEFT would ignore"
    ),
    "tensors in an excluded module": Kind(
        setting("exclude_modules", ["q_proj"]), f"{CONFIG}: target_modules", "PEFT would ignore"
    ),
    # numbers
    "int8": Kind(put(Q0_A, (8, 16), "I8"), f"{WEIGHTS}: {Q0_A}", "F32, F16 or BF16"),
    "float64": Kind(put(Q0_A, (8, 16), "F64"), f"{WEIGHTS}: {Q0_A}", "F32, F16 or BF16"),
    "NaN": Kind(poisoned(np.nan), f"{WEIGHTS}: {Q0_B}", "train again"),
    "infinity": Kind(poisoned(-np.inf), f"{WEIGHTS}: {Q0_B}", "train again"),
    "1e30": Kind(poisoned(1e30), f"{WEIGHTS}: {Q0_B}", "would overflow in the engine"),
    "B all zero": Kind(zeroed("B"), WEIGHTS, "exactly as the base model"),
    "A all zero": Kind(zeroed("A"), WEIGHTS, "exactly as the base model"),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_refuses(kind: Kind, plain: MakeAdapter, refuse: Refuse) -> None:
    adapter = plain()
    kind.spoil(adapter)
    faults = [fault for fault in refuse(adapter) if fault.where == kind.where]
    assert faults, "no fault names the place"
    assert any(kind.needed in fault.needed for fault in faults), faults


def test_tells_every_fault_of_every_part_at_once(plain: MakeAdapter, refuse: Refuse) -> None:
    adapter = plain(use_dora=True, r=64)
    adapter.extra["optimizer.pt"] = b"x"
    adapter.poison(Q0_B, np.nan)
    adapter.put(f"{PREFIX}model.layers.1.self_attn.v_proj.lora_A.weight", np.ones((8, 99)))
    faults = {(fault.where, fault.found) for fault in refuse(adapter)}
    assert {
        ("optimizer.pt", "a pickle, left unread"),
        (f"{CONFIG}: use_dora", "true"),
        (f"{CONFIG}: r", "rank 64"),
        (f"{WEIGHTS}: {Q0_B}", "NaN"),
        (f"{WEIGHTS}: {PREFIX}model.layers.1.self_attn.v_proj.lora_A.weight", "shape [8, 99]"),
    } <= faults


def test_checks_the_tensors_even_when_the_config_cannot_be_read(plain: MakeAdapter, refuse: Refuse) -> None:
    adapter = plain(lora_alpha=None)
    adapter.put(Q0_A, np.ones((8, 99)))
    assert {fault.where for fault in refuse(adapter)} == {f"{CONFIG}: lora_alpha", f"{WEIGHTS}: {Q0_A}"}


def test_a_fault_of_each_tensor_is_told_up_to_a_bound(plain: MakeAdapter, refuse: Refuse) -> None:
    adapter = plain()
    for number in range(2 * MAX_FAULTS):
        adapter.put(f"odd{number}", np.ones(1))
    faults = refuse(adapter)
    assert len(faults) == MAX_FAULTS + 1
    assert "more faults" in faults[-1].found


def test_refuses_more_bytes_than_the_limit_without_reading_them(plain: MakeAdapter, refuse: Refuse) -> None:
    [fault] = refuse(plain(), limits=AdapterLimits(max_rank=16, max_bytes=1000))
    assert fault.where == "adapter"
    assert "at most 1000" in fault.needed


def test_does_not_follow_a_link(plain: MakeAdapter, tmp_path: Path, tiny_base: BaseModel) -> None:
    elsewhere = plain().write(tmp_path / "elsewhere")
    directory = tmp_path / "adapter"
    directory.mkdir()
    (directory / CONFIG).symlink_to(elsewhere / CONFIG)
    os.link(elsewhere / WEIGHTS, directory / WEIGHTS)
    with pytest.raises(AdapterRefused) as refused:
        inspect_adapter(directory, tiny_base, AdapterLimits(max_rank=16, max_bytes=1 << 20))
    assert [(fault.where, fault.found) for fault in refused.value.faults] == [
        (CONFIG, "a link or another special file")
    ]


def test_refuses_a_directory_inside(plain: MakeAdapter, tmp_path: Path, tiny_base: BaseModel) -> None:
    directory = plain().write(tmp_path / "adapter")
    (directory / "checkpoint-8").mkdir()
    with pytest.raises(AdapterRefused) as refused:
        inspect_adapter(directory, tiny_base, AdapterLimits(max_rank=16, max_bytes=1 << 20))
    assert [(fault.where, fault.found) for fault in refused.value.faults] == [("checkpoint-8", "a directory")]


@pytest.mark.parametrize("shape", [(0,), (0, 16), (8, 0)])
def test_tensors_that_zero3_left_empty_are_one_fault(
    plain: MakeAdapter, refuse: Refuse, shape: tuple[int, ...]
) -> None:
    adapter = plain()
    for key in adapter.tensors:
        adapter.put(key, np.ones(shape))
    [fault] = refuse(adapter)
    assert (fault.where, "without a number" in fault.found) == (WEIGHTS, True)
    assert "ZeRO-3" in fault.needed


def test_a_file_without_tensors_is_one_fault(plain: MakeAdapter, refuse: Refuse) -> None:
    adapter = plain()
    adapter.tensors.clear()
    [fault] = refuse(adapter)
    assert (fault.where, fault.found) == (WEIGHTS, "no LoRA tensors")
    assert "ZeRO-3" in fault.needed


def test_a_pointer_in_the_place_of_both_files_is_told_for_both(plain: MakeAdapter, refuse: Refuse) -> None:
    adapter = plain()
    for name in (CONFIG, WEIGHTS):
        adapter.extra[name] = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    assert [(fault.where, "git-lfs" in fault.found) for fault in refuse(adapter)] == [(CONFIG, True), (WEIGHTS, True)]


def test_never_unpickles(plain: MakeAdapter, refuse: Refuse, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(tmp_path / "exploded"), "w"))

    adapter = plain()
    adapter.extra["adapter_model.bin"] = pickle.dumps(Bomb())
    adapter.without.add(WEIGHTS)
    assert {fault.where for fault in refuse(adapter)} == {"adapter_model.bin", WEIGHTS}
    assert not (tmp_path / "exploded").exists()


def test_a_resized_copy_of_the_untied_embedding_is_refused(
    plain: MakeAdapter, refuse: Refuse, untied_base: BaseModel
) -> None:
    adapter = plain(targets=("q_proj", "lm_head"), modules=dict(untied_base.modules))
    key = f"{PREFIX}lm_head.base_layer.weight"
    adapter.put(key, np.ones((41, 16)))
    [fault] = refuse(adapter, base=untied_base)
    assert fault.where == f"{WEIGHTS}: {key}"
    assert "[40, 16]" in fault.needed


def test_the_faults_travel_as_json(plain: MakeAdapter, admit: Admit) -> None:
    adapter = plain(use_dora=True)
    with pytest.raises(AdapterRefused) as refused:
        admit(adapter)
    assert json.loads(json.dumps(refused.value.details))["faults"][0]["where"] == f"{CONFIG}: use_dora"
