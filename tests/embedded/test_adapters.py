"""The example adapters answer right, and their directories are small, canonical PEFT directories."""

import json
from pathlib import Path

import pytest

from adapters.base_model import BaseModel
from adapters.checks.canonicalizer import canonicalize
from adapters.checks.inspection import AdapterLimits
from embedded import ADAPTERS, BASE, DATA
from embedded.recipe import score, skills

ROWS = 30
SHIPPED = sorted(path.name for path in ADAPTERS.iterdir())


def test_there_is_an_adapter_for_each_skill() -> None:
    assert set(SHIPPED) == set(skills.SKILLS)


@pytest.mark.parametrize(("skill", "least"), [("json", 0.85), ("sql", 0.85), ("sentiment", 0.95), ("pirate", 0.85)])
def test_an_adapter_does_what_it_was_taught_on_rows_it_never_saw(skill: str, least: float) -> None:
    model, tokenizer = score.load(BASE, ADAPTERS / skill)
    assert score.exact_match(model, tokenizer, skills.read(DATA, skill, "heldout")[:ROWS]) >= least


@pytest.mark.parametrize("skill", SHIPPED)
def test_an_adapter_is_a_small_peft_directory_that_names_no_machine(skill: str) -> None:
    files = {path.name: path for path in (ADAPTERS / skill).iterdir()}
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert files["adapter_model.safetensors"].stat().st_size <= 1_000_000
    config = json.loads(files["adapter_config.json"].read_text())
    assert config["base_model_name_or_path"] == "patchbay/embedded-base"
    assert sorted(config["target_modules"]) == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    ]  # fmt: skip


@pytest.mark.parametrize("skill", SHIPPED)
def test_an_adapter_is_in_canonical_form(skill: str, tmp_path: Path) -> None:
    base = BaseModel.from_directory(BASE, "base")
    assert (
        canonicalize(ADAPTERS / skill, tmp_path / "out", base, AdapterLimits(max_rank=8, max_bytes=1 << 20)).compiled
        is None
    )
