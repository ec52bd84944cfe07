"""The model card: what is known of a version, as the hub and people read it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from adapters.model_card import ModelCard

TRAINING = {
    "job": "ftjob-1",
    "step": 40,
    "method": "dpo",
    "hyperparameters": {"n_epochs": 2, "learning_rate": 0.00019},
    "seed": 7,
    "warm_start": None,
    "data": {
        "training_file": {"id": "file-1", "filename": "secret plans.jsonl", "sha256": "ab" * 32},
        "validation_file": None,
    },
    "renderer_sha256": "cd" * 32,
    "metrics": {"train_loss": 0.25, "valid_loss": 1 / 3},
    "trained_tokens": 12345,
    "seconds": 4.5,
    "curves": {"train_loss": [[1, 2.0], [2, 1.0]]},
}


def version(**report: Any) -> dict[str, Any]:
    checks = {
        "rank": 8,
        "target_modules": ["q_proj", "v_proj"],
        "modules": 4,
        "max_abs": 0.51234567,
        "use_rslora": False,
        "base_model": "Qwen/Qwen3-8B",
        "base_fingerprint": "f" * 64,
        "declared_base": "someone/else",
        "notes": [],
    }
    return {
        "id": "sql@2",
        "adapter": "sql",
        "version": 2,
        "digest": "d" * 64,
        "rank": 12,
        "fine_tuned_names": [],
        "report": checks | report,
    }


def card(*, place: str = "org/sql", is_merged: bool = False, **report: Any) -> str:
    return ModelCard(version(**report), place, is_merged).text()


def test_a_model_that_was_trained_whole_is_not_called_merged() -> None:
    text = ModelCard(
        version(training=TRAINING | {"extraction": {"energy": 0.5}}), ".", is_merged=True, is_whole=True
    ).text()
    assert "fine-tuned whole" in text
    assert "merged into" not in text
    assert "patchbay serve ." in text
    assert "| energy | 0.5 |" in text


def front_matter(text: str) -> dict[str, Any]:
    opened, front, _ = text.split("---\n", 2)
    assert opened == ""
    read: dict[str, Any] = yaml.safe_load(front)
    return read


def rows(text: str) -> dict[str, str]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ") and " | " in line[2:]]
    return {cells[0].replace("\\", ""): cells[1].replace("\\", "") for cells in lines if len(cells) == 2}


def test_the_front_matter_is_what_the_hub_reads() -> None:
    assert front_matter(card()) == {
        "base_model": "Qwen/Qwen3-8B",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "patchbay"],
    }


def test_the_method_is_a_tag_and_a_merged_model_is_for_transformers() -> None:
    front = front_matter(card(is_merged=True, training=TRAINING))
    assert (front["library_name"], front["tags"]) == ("transformers", ["lora", "patchbay", "dpo"])


@pytest.mark.parametrize(
    ("served", "declared", "base"),
    [
        ("Qwen/Qwen3-8B", "someone/else", "Qwen/Qwen3-8B"),
        ("embedded-base", "patchbay/embedded-base", "patchbay/embedded-base"),
        ("embedded-base", None, None),
        ("/models/qwen", "../runs/base", None),
        ("a/b: [evil]", "a/b\nlicense: mit", None),
    ],
)
def test_only_an_id_that_the_hub_takes_is_its_base_model(served: str, declared: str | None, base: str | None) -> None:
    assert front_matter(card(base_model=served, declared_base=declared)).get("base_model") == base


def test_it_tells_which_weights_these_are() -> None:
    fields = rows(card())
    assert fields["version"] == "sql@2"
    assert fields["digest of the adapter"] == "d" * 64
    assert fields["base fingerprint"] == "f" * 64
    assert (fields["rank"], fields["target modules"]) == ("12", "q_proj, v_proj")


def test_it_tells_how_it_was_trained() -> None:
    fields = rows(card(training=TRAINING))
    assert fields["training file, sha256"] == "ab" * 32
    assert (fields["method"], fields["seed"], fields["trained tokens"]) == ("dpo", "7", "12345")
    assert (fields["n_epochs"], fields["learning_rate"]) == ("2", "0.00019")
    assert (fields["train_loss"], fields["valid_loss"]) == ("0.25", "0.333333")


def test_what_is_not_known_is_left_out() -> None:
    assert "How it was trained" not in card()
    text = card(training=TRAINING)
    assert "validation file" not in text
    assert "warm start from" not in text
    assert "None" not in text


def test_the_names_of_files_stay_at_home() -> None:
    assert "secret plans" not in card(training=TRAINING)


def test_where_the_base_lay_stays_at_home() -> None:
    text = card(base_model="/home/someone/models/qwen", declared_base=None)
    assert rows(text)["base model"] == "qwen"
    assert "someone" not in text


def test_it_tells_what_the_checks_measured_whatever_they_are() -> None:
    fields = rows(card(probe={"max_delta": 0.25, "prompts": ["a", "b"], "rows": [[1, 2]]}, notes=["2 modules stay"]))
    assert (fields["modules"], fields["max_abs"], fields["use_rslora"]) == ("4", "0.512346", "no")
    assert (fields["probe.max_delta"], fields["probe.prompts"], fields["notes"]) == ("0.25", "a, b", "2 modules stay")
    assert "probe.rows" not in fields


def test_text_from_outside_stays_text() -> None:
    text = card(notes=["<script>x</script> | [link](http://evil)\n# heading `code`"])
    assert "<script>" not in text
    assert "\n# heading" not in text
    assert r"\| \[link\](http://evil) # heading \`code\`" in text


def test_it_tells_how_to_use_an_adapter() -> None:
    text = card()
    assert "vllm serve Qwen/Qwen3-8B --enable-lora --max-lora-rank 16 --lora-modules sql=org/sql\n" in text
    assert 'PeftModel.from_pretrained(model, "org/sql")' in text
    assert "patchbay adapters push org/sql --name sql\n" in text


def test_it_tells_how_to_use_a_merged_model() -> None:
    text = card(is_merged=True)
    assert "vllm serve org/sql --served-model-name sql\n" in text
    assert "PeftModel" not in text
    assert "patchbay serve org/sql\n" in text


VERDICT = {
    "result": "better",
    "message": "better than base (exact match +0.81, +0.7 to +0.9), on 100 rows",
    "of": {
        "rows": 100,
        "contestants": [
            {
                "name": "base",
                "means": {"exact_match": 0.02},
                "differences": {"exact_match": {"mean": 0.81, "low": 0.7, "high": 0.9, "wins": 82}},
            }
        ],
        "general_ability": {"texts": 26, "difference": {"mean": -0.05}},
        "tokens": {"prompt": 41000, "completion": 0},
    },
}


def test_the_verdict_is_told_with_its_numbers() -> None:
    text = card(verdict=VERDICT)
    assert "## The verdict\n\nbetter than base (exact match +0.81, +0.7 to +0.9), on 100 rows" in text
    assert "| beside base: exact match | +0.81 (+0.7 to +0.9) to 0.02 |" in text
    assert "| general\\_ability.difference.mean | -0.05 |" in text
    assert text.count("better") == 2


def test_why_there_is_no_verdict_is_told() -> None:
    assert "## The verdict\n\nNone: verdict\\_rows is 0" in card(verdict_missing={"reason": "verdict_rows is 0"})
    assert "## The verdict" not in card()
