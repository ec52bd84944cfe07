"""Any LoRA that passes the checks becomes one form: the same change to the weights, and the same bytes for it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from adapters.base_model import BaseModel
from adapters.checks.canonicalizer import Canonical, canonicalize
from adapters.errors import AdapterRefused
from adapters.lora.canonical_form import CompileReport
from adapters.storage.manifest import CONFIG_FILE, FILES, WEIGHTS_FILE
from tests.adapters.checks.conftest import (
    LIMITS,
    SHAPES,
    TIED_BASE,
    UNTIED_BASE,
    AdapterFiles,
    MakeAdapter,
    encode,
    linear_modules,
)
from tests.adapters.compile.spoiling import SPELLINGS

TARGETS = tuple(name.rpartition(".")[2] for name in SHAPES)
STEP = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-24}
"""The largest relative error of one rounding."""
EXAMPLES = 40

Bytes = dict[str, bytes]


def base_in(dtype: str) -> BaseModel:
    return replace(TIED_BASE, dtype=dtype)


def canonical_of(files: AdapterFiles | Bytes, base: BaseModel) -> tuple[Canonical, Bytes]:
    """What becomes of the files, and the bytes that are served."""
    with TemporaryDirectory() as name:
        source, out = Path(name, "source"), Path(name, "out")
        if isinstance(files, AdapterFiles):
            files.write(source)
        else:
            source.mkdir()
            for file, data in files.items():
                (source / file).write_bytes(data)
        canonical = canonicalize(source, out, base, LIMITS)
        served = source if canonical.compiled is None else out
        return canonical, {file: (served / file).read_bytes() for file in FILES}


def changes(files: Bytes) -> dict[str, np.ndarray]:
    """What an adapter adds to each module, by the definition of LoRA; nothing of ours reads it."""
    config = json.loads(files[CONFIG_FILE])
    with TemporaryDirectory() as name:
        (path := Path(name, WEIGHTS_FILE)).write_bytes(files[WEIGHTS_FILE])
        tensors = {key: tensor.double().numpy() for key, tensor in load_file(path).items()}
    made = {}
    for key, a in tensors.items():
        if "lora_A" in key:
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            last = module.rpartition(".")[2]
            rank = config.get("rank_pattern", {}).get(last, config["r"])
            alpha = config.get("alpha_pattern", {}).get(last, config["lora_alpha"])
            scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
            made[module] = scale * tensors[key.replace("lora_A", "lora_B")] @ a
    return made


@st.composite
def adapters(draw: st.DrawFn) -> AdapterFiles:
    """LoRAs with any of what may differ from the canonical form."""
    some_targets = st.dictionaries(st.sampled_from(TARGETS), st.integers(1, 16), max_size=3)
    ranks, alphas, rank = draw(some_targets), draw(some_targets), draw(st.integers(1, 16))
    return AdapterFiles.plain(
        targets=tuple(draw(st.lists(st.sampled_from(TARGETS), min_size=1, unique=True))),
        rank=lambda module: ranks.get(module.rpartition(".")[2], rank),
        dtype=draw(st.sampled_from(["F32", "BF16"])),
        r=rank,
        lora_alpha=draw(st.integers(1, 64)),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        use_rslora=draw(st.booleans()),
    )


@given(adapters(), st.sampled_from(list(STEP)))
@settings(max_examples=EXAMPLES, deadline=None)
def test_it_changes_the_weights_as_the_original_does_within_one_rounding(files: AdapterFiles, dtype: str) -> None:
    meant = changes({CONFIG_FILE: json.dumps(files.config).encode(), WEIGHTS_FILE: files.weights()})
    canonical, served = canonical_of(files, base_in(dtype))
    made = changes(served)
    assert made.keys() == meant.keys()
    whole = math.sqrt(sum(np.sum(change**2) for change in meant.values()))
    lost = math.sqrt(sum(np.sum((made[module] - meant[module]) ** 2) for module in meant))
    assert lost <= 3 * STEP[dtype] * whole
    config = json.loads(served[CONFIG_FILE])
    assert config["lora_alpha"] == config["r"] == canonical.report.rank
    assert canonical.report.ranks == {config["r"]: len(meant)}
    assert canonical.report.dtypes == (dtype,)


@given(adapters(), st.sampled_from(list(STEP)))
@settings(max_examples=EXAMPLES, deadline=None)
def test_it_is_a_fixed_point(files: AdapterFiles, dtype: str) -> None:
    _, served = canonical_of(files, base_in(dtype))
    again, same = canonical_of(served, base_in(dtype))
    assert again.compiled is None
    assert same == served


@given(adapters(), st.sampled_from(list(SPELLINGS)))
@settings(max_examples=EXAMPLES, deadline=None)
def test_names_that_other_tools_give_are_the_same_adapter(files: AdapterFiles, tool: str) -> None:
    _, meant = canonical_of(files, base_in("BF16"))
    plain = set(files.tensors)
    files.tensors = {SPELLINGS[tool](name): tensor for name, tensor in reversed(files.tensors.items())}
    canonical, served = canonical_of(files, base_in("BF16"))
    assert served == meant
    renamed = len(set(files.tensors) - plain)  # a tool that renames attention alone renames nothing elsewhere
    note = f"{renamed} tensors had other names than PEFT gives them for tiny"
    assert list(canonical.compiled.notes if canonical.compiled else ()) == ([note] if renamed else [])


def made(canonical: Canonical) -> CompileReport:
    assert canonical.compiled is not None
    return canonical.compiled


def test_the_files_are_those_that_safetensors_and_peft_would_write(plain: MakeAdapter) -> None:
    _, served = canonical_of(plain(), base_in("BF16"))
    with TemporaryDirectory() as name:
        (path := Path(name, WEIGHTS_FILE)).write_bytes(served[WEIGHTS_FILE])
        save_file(load_file(path), again := Path(name, "again"), {"format": "pt"})
        assert again.read_bytes() == served[WEIGHTS_FILE]


@pytest.mark.parametrize(
    ("config", "kind", "method"),
    [
        ({"lora_alpha": 8}, "lora", "as is"),
        ({"lora_alpha": 16}, "lora", "folded"),
        ({"lora_alpha": 8, "use_rslora": True}, "rslora", "folded"),
        ({"lora_alpha": 8, "alpha_pattern": {"q_proj": 4}}, "lora", "folded"),
    ],
)
def test_the_report_says_how_it_was_made(config: dict[str, Any], kind: str, method: str, plain: MakeAdapter) -> None:
    report = made(canonical_of(plain(**config), base_in("BF16"))[0])
    assert (report.kind, report.method, report.rank_before, report.rank) == (kind, method, 8, 8)
    assert (report.error, report.worst_module) == (0, None)
    assert 0 < report.rounding < 2 * STEP["BF16"]


def test_what_the_inspection_noted_of_the_original_is_noted_still(plain: MakeAdapter) -> None:
    files = plain(base_model_name_or_path="another/model")
    files.tensors = {name: tensor for name, tensor in files.tensors.items() if "layers.1" not in name}
    canonical, served = canonical_of(files, base_in("BF16"))
    assert [note.partition(" ")[0] for note in canonical.report.notes] == ["made", "2"]
    assert json.loads(served[CONFIG_FILE])["base_model_name_or_path"] == "another/model"


def test_a_head_and_an_embedding_are_folded_like_any_module(plain: MakeAdapter) -> None:
    files = plain(targets=("lm_head", "embed_tokens"), modules=dict(UNTIED_BASE.modules))
    meant = {name: files.array(name) * (2 if "B" in name else 1) for name in files.tensors}
    _, served = canonical_of(files, UNTIED_BASE)
    with TemporaryDirectory() as name:
        (path := Path(name, WEIGHTS_FILE)).write_bytes(served[WEIGHTS_FILE])
        stored = {key: tensor.numpy() for key, tensor in load_file(path).items()}
    assert stored.keys() == meant.keys()
    for name, numbers in meant.items():
        np.testing.assert_array_equal(stored[name], numbers)


def test_with_a_copy_of_the_bases_embedding_it_stays_as_it_came(plain: MakeAdapter) -> None:
    files = plain(targets=("lm_head",), modules=dict(UNTIED_BASE.modules))
    files.put("base_model.model.lm_head.base_layer.weight", np.zeros(UNTIED_BASE.modules["lm_head"]))
    canonical, served = canonical_of(files, UNTIED_BASE)
    assert canonical.compiled is None
    assert any("kept as it came" in note for note in canonical.report.notes)
    assert served[WEIGHTS_FILE] == files.weights()


def test_such_a_copy_among_names_of_another_tool_is_refused(plain: MakeAdapter) -> None:
    files = plain(targets=("lm_head",), modules=dict(UNTIED_BASE.modules))
    files.put("base_model.model.lm_head.base_layer.weight", np.zeros(UNTIED_BASE.modules["lm_head"]))
    files.rename("lora_A.weight", "lora_A.default.weight")
    files.rename("lora_B.weight", "lora_B.default.weight")
    with pytest.raises(AdapterRefused, match="save_embedding_layers=False"):
        canonical_of(files, UNTIED_BASE)


def test_such_a_copy_beside_a_config_that_the_engine_cannot_read_is_refused(plain: MakeAdapter) -> None:
    files = plain(targets=("lm_head",), modules=dict(UNTIED_BASE.modules))
    files.extra[CONFIG_FILE] = json.dumps(files.config).encode("utf-8-sig")
    assert canonical_of(files, UNTIED_BASE)[0].compiled is not None
    files.put("base_model.model.lm_head.base_layer.weight", np.zeros(UNTIED_BASE.modules["lm_head"]))
    with pytest.raises(AdapterRefused, match="a byte order mark"):
        canonical_of(files, UNTIED_BASE)


@pytest.mark.parametrize("dtype", STEP)
def test_a_scale_that_overflows_is_refused(dtype: str, plain: MakeAdapter) -> None:
    files = plain(lora_alpha=8 * 1024)
    files.poison("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", 100.0)
    with pytest.raises(AdapterRefused, match="with its scale; needed at most 65504"):
        canonical_of(files, base_in(dtype))


def test_a_scale_that_leaves_nothing_is_refused_as_inert(plain: MakeAdapter) -> None:
    with pytest.raises(AdapterRefused, match="only zeros"):
        canonical_of(plain(lora_alpha=1e-30), base_in("F16"))


def test_a_pattern_that_means_another_thing_by_the_files_names_is_refused(plain: MakeAdapter) -> None:
    files = plain(alpha_pattern={"language_model.model.layers.0.self_attn.q_proj": 3})
    files.rename("base_model.model.", "base_model.model.language_model.")
    with pytest.raises(AdapterRefused, match="patterns that mean the same for both"):
        canonical_of(files, base_in("BF16"))


def test_targets_may_be_named_as_the_file_names_them(plain: MakeAdapter) -> None:
    _, meant = canonical_of(plain(), base_in("BF16"))
    files = plain(target_modules=r"language_model\.model\.layers\.\d+\.self_attn\.[qv]_proj")
    files.rename("base_model.model.", "base_model.model.language_model.")
    assert canonical_of(files, base_in("BF16"))[1] == meant


def test_a_name_that_fits_two_modules_is_not_guessed(plain: MakeAdapter) -> None:
    two = {**linear_modules(), "model.language_model.layers.0.self_attn.q_proj": (16, 16)}
    base = BaseModel.from_shapes("two", {}, two)
    files = plain(targets=("q_proj",))
    files.rename("model.model.layers.0", "model.layers.0")
    with pytest.raises(AdapterRefused, match=r"module layers\.0\.self_attn\.q_proj"):
        canonical_of(files, base)


def test_a_zero_keeps_its_sign_and_a_scale_of_one_its_numbers(plain: MakeAdapter) -> None:
    files = plain(lora_alpha=8)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    numbers = files.array(name)
    numbers[0] = -0.0
    files.tensors[name] = encode(numbers)
    _, served = canonical_of(files, base_in("F32"))
    with TemporaryDirectory() as directory:
        (path := Path(directory, WEIGHTS_FILE)).write_bytes(served[WEIGHTS_FILE])
        assert load_file(path)[name].numpy().tobytes() == numbers.tobytes()
