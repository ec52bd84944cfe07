"""What is not compiled, and what its author is told."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoHaConfig, LoraConfig, ShiraConfig, VeraConfig

from adapters.errors import AdapterRefused
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE
from tests.adapters.compile.spoiling import Compile, Refuse, edit_config, edit_tensors

Save = Callable[..., Path]
Tensors = dict[str, torch.Tensor]
TARGETS = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def lora(save: Save) -> Path:
    return save(LoraConfig(r=4, **TARGETS))


@pytest.fixture
def loha(save: Save) -> Path:
    return save(LoHaConfig(r=2, **TARGETS))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("PREFIX_TUNING", "before the prompt"),
        ("PROMPT_TUNING", "before the prompt"),
        ("LN_TUNING", "layer norms"),
        ("TRAINABLE_TOKENS", "embeddings"),
        ("XLORA", "mixture"),
        ("TINYLORA", "does not save"),
        ("NO_SUCH_METHOD", "NO_SUCH_METHOD"),
        (["LORA"], "LORA"),
    ],
)
def test_what_is_no_change_to_a_weight_is_refused_by_kind(kind: Any, reason: str, lora: Path, refused: Refuse) -> None:
    edit_config(lora, peft_type=kind)
    (fault,) = refused(lora)
    assert fault.where == f"{CONFIG_FILE}: peft_type"
    assert reason in fault.found


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"use_something_new": True}, "use_something_new"),
        ({"r": 0}, "r"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
    ],
)
def test_fields_of_a_lora_that_change_more_are_refused(
    fields: dict[str, Any], where: str, lora: Path, refused: Refuse
) -> None:
    edit_config(lora, **fields)
    assert f"{CONFIG_FILE}: {where}" in {fault.where for fault in refused(lora)}


def test_what_is_compiled_is_no_fault_beside_a_field_of_another_type(lora: Path, refused: Refuse) -> None:
    edit_config(lora, use_dora=True, lora_dropout="0.1", bias="all")
    assert [fault.where.split(": ")[1] for fault in refused(lora)] == ["lora_dropout", "bias"]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"use_something_new": True}, ": use_something_new"),
        ({"new_kind": True, "peft_version": "0.99.0"}, ": new_kind"),
        ({"bias": "all"}, ": bias"),
        ({"task_type": "SEQ_CLS"}, ": task_type"),
        ({"target_modules": None}, ": target_modules"),
        ({"target_modules": ["no_such_module"]}, ""),
        ({"target_modules": "("}, ""),
        ({"r": "many"}, ""),
        ({"r": -1}, ""),
    ],
)
def test_fields_of_another_method_are_read_strictly(
    fields: dict[str, Any], where: str, loha: Path, refused: Refuse
) -> None:
    edit_config(loha, **fields)
    if "bias" in fields:
        assert refused(loha)[0].where.startswith(CONFIG_FILE)
    else:
        assert refused(loha)[0].where == f"{CONFIG_FILE}{where}"


def test_biases_of_a_lora_are_called_biases(save: Save, refused: Refuse) -> None:
    faults = refused(save(LoraConfig(r=4, lora_bias=True, **TARGETS)))
    assert faults[0].where == f"{CONFIG_FILE}: lora_bias"
    assert all("no biases" in fault.needed for fault in faults[1:])
    assert len(faults) == 1 + 8


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.floats(-2, 40) | st.text("a0._*(", max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["q_proj", "x"]), inner, max_size=2),
    max_leaves=3,
)


@pytest.mark.parametrize("config_class", [LoraConfig, LoHaConfig, VeraConfig, IA3Config])
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_config_of_any_values_is_compiled_or_refused(
    config_class: Any, data: st.DataObject, save: Save, compiled: Compile, tmp_path: Path
) -> None:
    source = tmp_path / "saved" if (tmp_path / "saved").exists() else save(config_class(**TARGETS))
    before = (source / CONFIG_FILE).read_text()
    name = data.draw(st.sampled_from(sorted(field.name for field in dataclasses.fields(config_class))))
    try:
        edit_config(source, **{name: data.draw(VALUES)})
        with contextlib.suppress(AdapterRefused):
            compiled(source, max_rank=256)
    finally:
        (source / CONFIG_FILE).write_text(before)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"peft_type": "LORA", "peft_type": "LOHA"}', b"\xff"])
def test_a_config_that_is_none_is_refused(raw: bytes, lora: Path, refused: Refuse) -> None:
    (lora / CONFIG_FILE).write_bytes(raw)
    assert refused(lora)[0].where.startswith(CONFIG_FILE)


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def with_(**tensors: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda others: others | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


SPOILT: list[tuple[Callable[[Tensors], Tensors], str]] = [
    (without("layers.0.self_attn.q_proj.lora_A"), "no lora_A"),
    (without(""), "no LoRA tensors"),
    (lambda tensors: tensors | {f"{Q}.lora_A.weight": torch.randn(5, 256)}, "shape [5, 256]"),
    (lambda tensors: tensors | {f"{Q}.lora_A.weight": torch.randn(4, 256).double()}, "dtype F64"),
    (lambda tensors: tensors | {f"{Q}.lora_A.weight": torch.ones(4, 256, dtype=torch.int8)}, "dtype I8"),
    (lambda tensors: tensors | {f"{Q}.lora_A.weight": torch.full((4, 256), torch.nan)}, "NaN"),
    (lambda tensors: tensors | {f"{Q}.lora_A.default.weight": torch.randn(4, 256)}, "the same tensor as"),
    (
        lambda tensors: {n.replace("q_proj.lora_A", "q_proj.lora_A.mine"): t for n, t in tensors.items()},
        "several adapters",
    ),
    (lambda tensors: {n.replace("layers.3", "layers.30"): t for n, t in tensors.items()}, "module model.layers.30"),
    (lambda tensors: {n.replace("self_attn", "attention"): t for n, t in tensors.items()}, "attention"),
    (lambda tensors: tensors | {f"{Q}.lora_magnitude_vector": torch.ones(256)}, "no engine reads"),
    (lambda tensors: tensors | {"base_model.model.model.embed_tokens.weight": torch.randn(4100, 256)}, "differs"),
    (lambda tensors: tensors | {f"{Q}.bias": torch.ones(256)}, "differs"),
    (lambda tensors: tensors | {"base_model.model.lm_head.lora_A.weight": torch.randn(4, 256)}, "lm_head"),
]


@pytest.mark.parametrize(("spoil", "found"), SPOILT, ids=[row[1] for row in SPOILT])
def test_every_tensor_of_a_lora_must_be_there_and_fit(
    spoil: Callable[[Tensors], Tensors], found: str, lora: Path, refused: Refuse
) -> None:
    edit_tensors(lora, spoil)
    assert any(found in f"{fault.where} {fault.found}" for fault in refused(lora))


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (without("layers.2.self_attn.v_proj.hada_w2_a"), "no such tensor"),
        (lambda tensors: tensors | {f"{Q}.lora_A.weight": torch.randn(2, 256)}, "a tensor that PEFT does not read"),
        (lambda tensors: tensors | {f"{Q}.hada_w1_a": torch.randn(256, 3)}, "shape [256, 3]"),
        (lambda tensors: tensors | {f"{Q}.hada_w1_a": torch.ones(256, 2, dtype=torch.int8)}, "dtype I8"),
        (lambda tensors: tensors | {f"{Q}.hada_w1_a": torch.full((256, 2), torch.inf)}, "infinity"),
    ],
)
def test_every_tensor_of_another_method_must_be_there_and_fit(
    spoil: Callable[[Tensors], Tensors], found: str, loha: Path, refused: Refuse
) -> None:
    edit_tensors(loha, spoil)
    assert any(found in fault.found for fault in refused(loha))


def test_indices_outside_of_the_weight_are_refused_and_reach_no_memory(save: Save, refused: Refuse) -> None:
    source = save(ShiraConfig(r=2, **TARGETS))

    def far(tensors: Tensors) -> Tensors:
        return {name: tensor + 10**12 if "indices" in name else tensor for name, tensor in tensors.items()}

    edit_tensors(source, far)
    assert "PEFT refuses" in refused(source)[0].found


def test_a_scale_that_leaves_the_numbers_of_the_base_is_refused(lora: Path, refused: Refuse) -> None:
    edit_tensors(lora, lambda tensors: {name: tensor * 1000 for name, tensor in tensors.items()})
    edit_config(lora, lora_alpha=65536)
    assert "magnitude" in refused(lora)[0].found


def test_a_pattern_that_means_two_things_is_refused(lora: Path, refused: Refuse) -> None:
    old, new = "model.model.layers", "model.model.language_model.layers"
    edit_tensors(lora, lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()})
    edit_config(lora, alpha_pattern={"^model.language_model.layers.0.self_attn.q_proj": 3})
    (fault,) = refused(lora)
    assert fault.where == f"{CONFIG_FILE}: alpha_pattern"


def test_a_folder_a_link_or_a_pickle_is_not_read(lora: Path, refused: Refuse) -> None:
    (lora / WEIGHTS_FILE).rename(lora / "elsewhere")
    (lora / "adapter_model.bin").write_bytes(b"pickle")
    assert refused(lora)[0].found == "no such file"
    (lora / WEIGHTS_FILE).symlink_to(lora / "elsewhere")
    assert refused(lora)[0].found == "a link or another special file"


def test_names_and_places_in_a_config_are_not_looked_up(save: Save, compiled: Compile) -> None:
    source = save(VeraConfig(r=16, **TARGETS))
    nowhere = "http://127.0.0.1:1/model"
    edit_config(source, base_model_name_or_path=nowhere, revision="x", auto_mapping={"base_model_class": "os.system"})
    _, out = compiled(source)
    assert json.loads((out / CONFIG_FILE).read_text())["base_model_name_or_path"] == nowhere


def test_a_loss_is_taken_only_when_asked_for(save: Save, compiled: Compile, refused: Refuse) -> None:
    source = save(IA3Config(feedforward_modules=[], **TARGETS))
    (fault,) = refused(source, max_rank=16)
    report, _ = compiled(source, max_rank=16, compress_to=8)
    assert (report.method, report.rank) == ("svd", 8)
    assert report.worst_error >= report.error > 0.02
    assert "rank 2" in fault.needed
