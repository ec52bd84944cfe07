"""A run goes on from an adapter: it begins where that one ended, and ends as one adapter, whatever dies in between."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapters.base_model import BaseModel
from adapters.checks.canonicalizer import canonicalize
from adapters.checks.inspection import AdapterLimits, inspect_adapter
from embedded import ADAPTERS, BASE, DATA
from trainer.endings import Stopped
from trainer.methods import dpo, kto, supervised
from trainer.methods.__main__ import main
from trainer.run_directory import Exit, RunDirectory
from trainer.training_method import TrainingMethod

SQL = ADAPTERS / "sql"
SHORT = {"warm_start": SQL, "batch_size": 8, "n_epochs": 2, "checkpoint_steps": 2, "learning_rate_multiplier": 0.1}
"""Four steps, and two checkpoints."""
WRONG = {"role": "assistant", "content": "I do not know."}
TRAIN = {TrainingMethod.SUPERVISED: supervised.train, TrainingMethod.DPO: dpo.train, TrainingMethod.KTO: kto.train}


@pytest.fixture(scope="session")
def queries() -> list[dict]:
    return [json.loads(line) for line in (DATA / "sql" / "train.jsonl").read_text().splitlines()[:16]]


@pytest.fixture
def rows(write, queries) -> Callable[[TrainingMethod], Path]:
    """Write rows for a method; what the warm start answers is the better answer."""

    def rows(method: TrainingMethod) -> Path:
        if method is TrainingMethod.SUPERVISED:
            return write(queries)
        made = []
        for number, row in enumerate(queries):
            *prompt, answer = row["messages"]
            if method is TrainingMethod.DPO:
                made.append(
                    {"input": {"messages": prompt}, "preferred_output": [answer], "non_preferred_output": [WRONG]}
                )
            else:
                made.append({"messages": [*prompt, answer if number % 2 else WRONG], "label": number % 2 == 1})
        return write(made)

    return rows


def metrics(run: RunDirectory) -> list[dict]:
    return [event.data for event in run.events() if "train_loss" in event.data]


class AfterTwoSteps(Flag):
    """Set from the third step on; the first, at a rate of 0, changes no weight."""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self._run = run

    def is_set(self) -> bool:
        return len(metrics(self._run)) >= 2


def exported(run: RunDirectory) -> list[bytes]:
    return [(made.adapter / "adapter_model.safetensors").read_bytes() for made in run.checkpoints()]


def test_on_its_own_task_it_begins_with_a_low_loss(make_run, rows) -> None:
    warm = make_run("warm", training_file=rows(TrainingMethod.SUPERVISED), **SHORT)
    supervised.train(warm, warm.spec(), Flag())
    fresh = make_run("fresh", training_file=rows(TrainingMethod.SUPERVISED), **SHORT | {"warm_start": None})
    supervised.train(fresh, fresh.spec(), Flag())
    assert metrics(warm)[0]["train_mean_token_accuracy"] > 0.9
    assert metrics(warm)[0]["train_loss"] < metrics(fresh)[0]["train_loss"] / 5


@pytest.mark.parametrize("method", list(TRAIN))
def test_stopped_in_the_middle_it_goes_on_to_the_same_bytes(make_run, rows, method: TrainingMethod) -> None:
    whole = make_run("whole", training_file=rows(method), method=method, **SHORT)
    TRAIN[method](whole, whole.spec(), Flag())
    run = make_run("stopped", training_file=rows(method), method=method, **SHORT)
    with pytest.raises(Stopped):
        TRAIN[method](run, run.spec(), AfterTwoSteps(run))
    TRAIN[method](run, run.spec(), Flag())
    assert [made.step for made in run.checkpoints()] == [2, 3, 4]
    assert [exported(run)[0], exported(run)[2]] == exported(whole)
    assert [data["train_loss"] for data in metrics(run)] == [data["train_loss"] for data in metrics(whole)]
    adapter = run.checkpoints()[-1].adapter
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    base, limits = BaseModel.from_directory(BASE, "base"), AdapterLimits(max_rank=8, max_bytes=1 << 30)
    assert inspect_adapter(adapter, base, limits).report.rank == 8
    assert (adapter / "adapter_model.safetensors").read_bytes() != (SQL / "adapter_model.safetensors").read_bytes()


def test_preferences_are_measured_from_the_warm_start_and_not_from_the_base(make_run, rows) -> None:
    run = make_run(training_file=rows(TrainingMethod.DPO), method=TrainingMethod.DPO, **SHORT)
    dpo.train(run, run.spec(), Flag())
    first, *_, last = metrics(run)
    assert first["train_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert first["train_reward_margin"] == pytest.approx(0, abs=1e-5)
    assert last["train_reward_margin"] > 0
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, run.checkpoints()[-1].adapter)
    assert list(model.peft_config) == ["default"]


def test_scaling_by_the_root_of_the_rank_counts(make_run, rows, tmp_path) -> None:
    """The same adapter in another form: alpha / sqrt(rank) in place of alpha / rank."""
    warm_start = tmp_path / "rooted"
    shutil.copytree(SQL, warm_start)
    config = json.loads((SQL / "adapter_config.json").read_text())
    config |= {"use_rslora": True, "lora_alpha": config["lora_alpha"] / math.sqrt(config["r"])}
    (warm_start / "adapter_config.json").write_text(json.dumps(config))
    runs = [make_run("plain", training_file=rows(TrainingMethod.SUPERVISED), **SHORT)]
    runs.append(make_run("rslora", training_file=rows(TrainingMethod.SUPERVISED), **SHORT | {"warm_start": warm_start}))
    for run in runs:
        supervised.train(run, run.spec(), Flag())
    plain, rooted = runs
    assert metrics(rooted)[0]["train_loss"] == pytest.approx(metrics(plain)[0]["train_loss"], rel=1e-4)
    written = json.loads((rooted.checkpoints()[-1].adapter / "adapter_config.json").read_text())
    assert (written["lora_alpha"], written["use_rslora"]) == (written["r"], False)


def test_a_version_as_it_is_served_trains_as_the_adapter_it_was_made_of(make_run, rows, tmp_path) -> None:
    """Its scale of 1 would halve the steps, were it kept."""
    base = BaseModel.from_directory(BASE, "base")
    canonicalize(twice_scaled(tmp_path / "came"), served := tmp_path / "served", base, AdapterLimits(16, 1 << 30))
    assert json.loads((served / "adapter_config.json").read_text())["lora_alpha"] == 8
    starts = {"plain": tmp_path / "came", "canonical": served}
    runs = [
        make_run(name, training_file=rows(TrainingMethod.SUPERVISED), **SHORT | {"warm_start": start})
        for name, start in starts.items()
    ]
    for run in runs:
        supervised.train(run, run.spec(), Flag())
    assert exported(runs[0]) == exported(runs[1])


def twice_scaled(directory: Path) -> Path:
    """The sql adapter as PEFT writes it: alpha is twice the rank."""
    shutil.copytree(SQL, directory)
    config = json.loads((SQL / "adapter_config.json").read_text())
    tensors = load_file(SQL / "adapter_model.safetensors")
    factor = config["lora_alpha"] / (2 * config["r"])
    save_file(
        {n: t * factor if "lora_B" in n else t for n, t in tensors.items()}, directory / "adapter_model.safetensors"
    )
    (directory / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 2 * config["r"]}))
    return directory


def missing_file(directory: Path) -> None:
    (directory / "adapter_model.safetensors").unlink()


def missing_directory(directory: Path) -> None:
    shutil.rmtree(directory)


def another_width(directory: Path) -> None:
    file = directory / "adapter_model.safetensors"
    save_file({name: torch.cat([tensor, tensor], dim=-1) for name, tensor in load_file(file).items()}, file)


def another_kind(directory: Path) -> None:
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dora": True}))


def not_finite(directory: Path) -> None:
    file = directory / "adapter_model.safetensors"
    save_file({name: tensor * math.nan for name, tensor in load_file(file).items()}, file)


@pytest.mark.parametrize("broken", [missing_file, missing_directory, another_width, another_kind, not_finite])
def test_a_wrong_adapter_is_refused_with_the_reason(make_run, rows, tmp_path, broken: Callable[[Path], None]) -> None:
    warm_start = tmp_path / "broken"
    shutil.copytree(SQL, warm_start)
    broken(warm_start)
    run = make_run(training_file=rows(TrainingMethod.SUPERVISED), **SHORT | {"warm_start": warm_start})
    assert main([str(run.path)], Flag()) is Exit.REFUSED
    event = run.events()[-1]
    assert event.level == "error"
    assert event.message.startswith("the warm start cannot be gone on from")
    assert event.data["faults"]
    assert main([str(run.path), "--preflight"], Flag()) is Exit.FINISHED
    assert run.preflight()["ok"] is False
    assert run.preflight()["reason"] == event.message


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "query"])
def test_targets_that_cannot_be_trained_are_refused(make_run, rows, target: str) -> None:
    run = make_run(training_file=rows(TrainingMethod.SUPERVISED), targets=("q_proj", target))
    assert main([str(run.path)], Flag()) is Exit.REFUSED
    assert target in run.events()[-1].message
    assert "down_proj" in run.events()[-1].message
