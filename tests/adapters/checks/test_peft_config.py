"""adapter_config.json: what each field may hold, and that ranks are given out as PEFT gives them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from adapters.errors import AdapterRefused, Fault
from adapters.lora.peft_config import PeftConfig

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
MODULES = [
    f"model.layers.{layer}.{name}"
    for layer in range(12)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
]


def parse(**changes: Any) -> PeftConfig:
    return PeftConfig.parse(json.dumps(PLAIN | changes).encode())


def faults_of(raw: bytes) -> tuple[Fault, ...]:
    with pytest.raises(AdapterRefused) as refused:
        PeftConfig.parse(raw)
    return refused.value.faults


def test_knows_every_field_of_pefts_own_config() -> None:
    theirs = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert theirs - PeftConfig.model_fields.keys() == set()


def test_reads_what_peft_writes(tmp_path: Path) -> None:
    peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], rank_pattern={"v": 2}).save_pretrained(tmp_path)
    config = PeftConfig.parse(Path(tmp_path / "adapter_config.json").read_bytes())
    assert (config.r, config.lora_alpha, config.target_modules) == (4, 8, ["q_proj"])
    assert list(config.unservable()) == []


@pytest.mark.parametrize("empty", [None, False, 0, "", [], {}])
def test_tolerates_an_unknown_field_that_is_empty(empty: object) -> None:
    assert parse(field_of_another_peft=empty).r == 8


@pytest.mark.parametrize(
    "noise",
    [
        {"torch_dtype": "bfloat16"},
        {"_name_or_path": "/tmp/x", "transformers_version": "4.40.0"},
        {"enable_lora": [True, False, True], "merge_weights": True},
        {"unsloth_fixed": True, "use_gradient_checkpointing": "unsloth"},
        {"lora_plus_ratio": 16, "tags": ["a", "b"]},
        {"quantum_lora": True},
        {"peft_version": "0.99.0", "note_of_a_later_peft": "text", "size_of_a_later_peft": 16},
        {"peft_version": "0.99.0", "switch_of_a_later_peft": False},
    ],
)
def test_an_unknown_field_is_ignored_as_peft_ignores_it(noise: dict[str, Any]) -> None:
    config = parse(**noise)
    assert set(config.ignored) == {name for name, value in noise.items() if value} - {"peft_version"}
    assert (config.r, list(config.unservable())) == (8, [])


keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda key: key not in PeftConfig.model_fields and not key.startswith("use_")
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@given(noise=st.dictionaries(keys, json_values, max_size=8))
def test_no_other_tools_fields_change_what_a_config_means(noise: dict[str, Any]) -> None:
    assert parse(**noise).model_dump() == parse().model_dump()
    assert set(parse(**noise).ignored) == {key for key, value in noise.items() if value}


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("use_magic", {"use_magic": True}),
        ("use_magic", {"use_magic": {"depth": 2}}),
        ("new_kind", {"new_kind": True, "peft_version": "0.22.0"}),
        ("new_kind_config", {"new_kind_config": {"depth": 2}, "peft_version": "1.0"}),
    ],
)
def test_a_field_that_may_switch_another_kind_of_lora_on_is_refused(field: str, fields: dict[str, Any]) -> None:
    [fault] = faults_of(json.dumps(PLAIN | fields).encode())
    assert fault.where == f"adapter_config.json: {field}"
    assert "train without it" in fault.needed


@pytest.mark.parametrize("kind", ["LORA", "lora", "Lora"])
def test_a_type_is_read_in_any_case(kind: str) -> None:
    assert parse(peft_type=kind).peft_type == "LORA"


def test_a_fields_name_reaches_the_message_as_plain_text() -> None:
    [fault] = faults_of(json.dumps(PLAIN | {"use_\x1b[31m\u202e": 1}).encode())
    assert fault.where.isascii()
    assert fault.where.isprintable()


def test_tells_every_bad_field_at_once() -> None:
    faults = faults_of(json.dumps(PLAIN | {"r": 0, "lora_alpha": None, "use_rslora": "yes"}).encode())
    assert [fault.where.split(": ")[1] for fault in faults] == ["r", "lora_alpha", "use_rslora"]


@pytest.mark.parametrize(
    "wrong", [{"r": "8"}, {"lora_dropout": "0.1"}, {"use_magic": True}, {"rank_pattern": {"x": 0}}]
)
def test_a_field_of_another_kind_hides_no_other_fault(wrong: dict[str, Any]) -> None:
    unserved = {"bias": "all", "use_dora": True, "modules_to_save": ["lm_head"], "task_type": "SEQ_CLS"}
    places = {fault.where.split(": ")[1] for fault in faults_of(json.dumps(PLAIN | unserved | wrong).encode())}
    assert places >= unserved.keys()
    assert len(places) == len(unserved) + 1


def test_a_byte_order_mark_is_skipped() -> None:
    assert PeftConfig.parse(json.dumps(PLAIN).encode("utf-8-sig")) == parse()


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"", "an empty file"),
        (b"Entry not found", "text that begins 'Entry not found'"),
        ("Zugriff verweigert: M\u00fcller".encode(), "text that begins 'Zugriff verweigert: M"),
        (json.dumps(PLAIN).encode("utf-16"), "UTF-16 text"),
        (b'{"error": "Repository not found"}', "JSON of another kind, with the fields error"),
        (b'{"model_type": "llama", "hidden_size": 64}', "with the fields hidden_size, model_type"),
    ],
)
def test_another_file_in_the_configs_place_is_one_fault(raw: bytes, found: str) -> None:
    [fault] = faults_of(raw)
    assert found in fault.found
    assert "the file that PEFT's save_pretrained wrote" in fault.needed


@pytest.mark.parametrize(
    ("changes", "where", "needed"),
    [
        ({"r": True}, "r", "whole number"),
        ({"r": "8"}, "r", "whole number"),
        ({"r": 8.5}, "r", "whole number"),
        ({"lora_alpha": -1}, "lora_alpha", "above 0"),
        ({"lora_alpha": 1e9}, "lora_alpha", "at most 65536"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj", "whole numbers"),
        ({"rank_pattern": {f"(a{n})": 4 for n in range(40)}}, "rank_pattern", "32 of them"),
        ({"rank_pattern": {f".*{n}": 4 for n in range(40)}}, "rank_pattern", "32 of them"),
        ({"alpha_pattern": {"q_proj": "16"}}, "alpha_pattern.q_proj", "above 0"),
        ({"layers_pattern": "(a+)+"}, "layers_pattern", "plain module name"),
        ({"layers_to_transform": [1] * 5000}, "layers_to_transform", "up to 4096"),
        ({"target_modules": None}, "target_modules", "list of module names"),
        ({"target_modules": [1]}, "target_modules", "list of module names"),
    ],
)
def test_refuses_a_bad_value_and_says_what_is_needed(changes: dict[str, Any], where: str, needed: str) -> None:
    [fault] = faults_of(json.dumps(PLAIN | changes).encode())
    assert fault.where == f"adapter_config.json: {where}"
    assert needed in fault.needed


@pytest.mark.parametrize("alpha", ["1e999", "NaN", "Infinity"])
def test_refuses_an_alpha_that_is_no_finite_number(alpha: float) -> None:
    raw = json.dumps(PLAIN).replace('"lora_alpha": 16', f'"lora_alpha": {alpha}').encode()
    assert faults_of(raw)[0].where.startswith("adapter_config.json")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b'{"r": 8, "r": 16}', b"[" * 100_000])
def test_refuses_what_is_not_one_json_object(raw: bytes) -> None:
    [fault] = faults_of(raw)
    assert fault.where == "adapter_config.json"
    assert "save_pretrained" in fault.needed


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal", "mica", "EVA"])
def test_admits_initialisations_that_keep_the_base(init: str | bool) -> None:
    assert list(parse(init_lora_weights=init).unservable()) == []


@pytest.mark.parametrize(
    "pattern",
    [
        {"q_proj": 2},
        {"layers.1.self_attn.q_proj": 2, "q_proj": 4},
        {"self_attn.q_proj|mlp.down_proj": 3},
        {r"model\.layers\.1\d\..*_proj": 5},
        {"^model.layers.0.self_attn.q_proj": 6},
        {"model.layers.[0-3].mlp.down_proj$": 7},
        {"proj": 9},
        {"q.proj": 2},
        {r".*\.layers\.3\..*(q_proj|k_proj|v_proj|o_proj)$": 8},
        {r"model\.layers\.(?:1|2|10)\.(self_attn|mlp)\.[qd].*": 3, "q_proj": 5},
        {r"(?!.*mlp).*_proj": 4},
        {r"layers\.(\d)\1\.": 6, r"layers\.(\d)\1\..*": 7},
        {".*.*.*x": 2, ".*.*.*j": 3},
        {"q_proj)|(model": 4},
        {"": 4},
    ],
)
def test_gives_each_module_the_rank_and_alpha_that_peft_gives(pattern: dict[str, int]) -> None:
    config = parse(rank_pattern=pattern, alpha_pattern=pattern).settled(MODULES)
    for module in MODULES:
        key = get_pattern_key(pattern.keys(), module)
        assert config.rank_of(module) == pattern.get(key, 8)
        assert config.alpha_of(module) == pattern.get(key, 16)


pieces = st.sampled_from(
    ["model", "layers", "self_attn", "mlp", "q_proj", "_proj", r"\.", ".", ".*", r"\d", r"\d+", "[0-3]", "1", "^", "$"]
)
expressions = st.recursive(
    pieces,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda each: f"({'|'.join(each)})"),
        inner.map(lambda each: f"(?:{each})?"),
        inner.map(lambda each: f"(?!{each})"),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(patterns=st.dictionaries(expressions, st.integers(1, 64), min_size=1, max_size=3))
def test_any_pattern_that_compiles_means_what_it_means_in_peft(patterns: dict[str, int]) -> None:
    config = parse(rank_pattern=patterns).settled(MODULES)
    theirs = {module: patterns.get(get_pattern_key(patterns.keys(), module), 8) for module in MODULES}
    assert {module: config.rank_of(module) for module in MODULES} == theirs


@pytest.mark.parametrize(
    ("pattern", "needed"),
    [
        ("(?:[a-z_.0-9]+)+!", "without repetitions inside of repetitions"),
        ("(.*.*)+x", "without repetitions inside of repetitions"),
        ("(", "a pattern that compiles"),
        ("a**", "a pattern that compiles"),
        ("(?i)q_proj", "a pattern that compiles"),
    ],
)
@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_of_ranks_can_neither_hang_us_nor_be_broken(field: str, pattern: str, needed: str) -> None:
    config = parse(**{field: {"q_proj": 4, pattern: 2}})
    with pytest.raises(AdapterRefused) as refused:
        config.settled(MODULES)
    [fault] = refused.value.faults
    assert fault.where == f"adapter_config.json: {field}.{pattern}"
    assert needed in fault.needed


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"target_modules": ["self_attn.q_proj", "model.layers.3.mlp.down_proj", "roj"]},
        {"layers_to_transform": [1, 11]},
        {"layers_to_transform": 2, "layers_pattern": "layers"},
        {"layers_to_transform": 2, "layers_pattern": ["h", "blocks"]},
        {"layers_to_transform": []},
        {"exclude_modules": ["layers.1.self_attn.q_proj", "v_proj"]},
        {"exclude_modules": r".*\.(?:1|3)\..*"},
        {"target_modules": r"model\.layers\.[0-4]\.(?:self_attn|mlp)\.(?:q|down)_proj"},
        {"target_modules": r"^(?!.*mlp).*_proj"},
        {"target_modules": "q_proj"},
    ],
)
def test_targets_the_modules_that_peft_targets(changes: dict[str, Any]) -> None:
    config = parse(**changes)
    theirs = peft.LoraConfig(**(PLAIN | changes))
    found = {module: check_target_module_exists(theirs, module) for module in MODULES}
    assert config.targeted(MODULES) == {
        module for module, match in found.items() if match and type(match).__name__ != "_ExcludedModule"
    }


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules"])
@pytest.mark.parametrize(
    ("pattern", "needed"),
    [
        ("(?:[a-z_.0-9]+)+!", "without repetitions inside of repetitions"),
        (r"(?:(?:(?:(?:a?){99}){99}){99}){99}", "without repetitions inside of repetitions"),
        ("(", "a pattern that compiles"),
        ("a" * 10_000, "at most 8192"),
    ],
    ids=["slow", "large", "broken", "long"],
)
def test_a_pattern_over_all_modules_can_neither_hang_nor_exhaust_us(field: str, pattern: str, needed: str) -> None:
    config = parse(**{field: pattern})
    with pytest.raises(AdapterRefused) as refused:
        config.targeted(MODULES)
    [fault] = refused.value.faults
    assert fault.where == f"adapter_config.json: {field}"
    assert needed in fault.needed
