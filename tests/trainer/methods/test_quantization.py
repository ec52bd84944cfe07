"""A base held in four bits trains adapters like any other; they are plain ones, for the base that serves."""

import sys
from itertools import cycle
from threading import Event as Flag

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors import safe_open

from adapters.base_model import BaseModel
from adapters.checks.inspection import AdapterLimits, inspect_adapter
from embedded import ADAPTERS, BASE, DATA
from embedded.recipe import score, skills
from tests.trainer.methods.drawing import Drawing
from trainer.endings import Stopped
from trainer.methods import base_model, dpo, reinforcement, reward, supervised
from trainer.methods.__main__ import main
from trainer.run_directory import Exit, RunDirectory
from trainer.training_method import TrainingMethod

WRONG = {"role": "assistant", "content": "I do not know."}


def metrics(run: RunDirectory) -> list[dict]:
    return [event.data for event in run.events() if "train_loss" in event.data]


def test_all_but_the_output_head_is_held_in_four_bits(make_run) -> None:
    model, _ = base_model.load(make_run(quantization="4bit", targets=("q_proj",)).spec())
    linear = {name: type(part) for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert linear.pop("lm_head") is torch.nn.Linear
    assert set(linear.values()) == {Linear4bit}


def test_its_adapter_judges_held_out_reviews_right_on_the_base_that_serves(make_run) -> None:
    run = make_run(quantization="4bit", n_epochs=3, rank=16)
    supervised.train(run, run.spec(), Flag())
    losses = [data["train_loss"] for data in metrics(run)]
    assert losses[-1] < losses[0] / 10
    adapter = run.checkpoints()[-1].adapter
    rows = skills.read(DATA, "sentiment", "heldout")[:40]
    assert score.exact_match(*score.load(BASE, adapter), rows) >= 0.85
    base, limits = BaseModel.from_directory(BASE, "base"), AdapterLimits(max_rank=16, max_bytes=1 << 30)
    assert inspect_adapter(adapter, base, limits).report.rank == 16
    with safe_open(adapter / "adapter_model.safetensors", "pt") as weights:
        names = set(weights.keys())
        assert {str(weights.get_slice(name).get_dtype()) for name in names} == {"BF16"}
    assert {name.split(".")[-2] for name in names} == {"lora_A", "lora_B"}


def test_stopped_in_the_middle_it_goes_on_to_the_same_bytes(make_run, write, reviews) -> None:
    fields = {"training_file": write(reviews[:16]), "quantization": "4bit", "batch_size": 4, "n_epochs": 1}
    whole, run = make_run("whole", **fields), make_run("stopped", **fields)
    supervised.train(whole, whole.spec(), Flag())
    stop = Flag()
    stop.set()
    with pytest.raises(Stopped):
        supervised.train(run, run.spec(), stop)
    supervised.train(run, run.spec(), Flag())
    last, expected = (
        (made.checkpoints()[-1].adapter / "adapter_model.safetensors").read_bytes() for made in (run, whole)
    )
    assert last == expected
    assert [data["train_loss"] for data in metrics(run)] == [data["train_loss"] for data in metrics(whole)]


def test_preferences_are_learned_from_a_warm_start_too(make_run, write, reviews) -> None:
    rows = [
        {"input": {"messages": [asked]}, "preferred_output": [answer], "non_preferred_output": [WRONG]}
        for asked, answer in (row["messages"] for row in reviews[:16])
    ]
    run = make_run(
        training_file=write(rows),
        method=TrainingMethod.DPO,
        quantization="4bit",
        warm_start=ADAPTERS / "sql",
        batch_size=8,
        n_epochs=2,
    )
    dpo.train(run, run.spec(), Flag())
    assert metrics(run)[-1]["train_reward_margin"] > 0


def test_a_reward_model_is_trained_on_it_too(make_run, write, reviews) -> None:
    rows = [{"messages": row["messages"][:1], "ranking": [row["messages"][1]["content"], "Hm."]} for row in reviews]
    files = {"training_file": write(rows[:32]), "validation_file": write(rows[100:116], "valid.jsonl")}
    options = {"batch_size": 8, "n_epochs": 2, "learning_rate_multiplier": 5.0}
    run = make_run(method=TrainingMethod.REWARD, quantization="4bit", **files, **options)
    reward.train(run, run.spec(), Flag())
    assert run.checkpoints()[-1].marker.metrics["valid_preference_accuracy"] >= 0.9


def test_a_policy_is_trained_on_it_too(make_run, write, reviews, monkeypatch) -> None:
    """The server draws with its own base model, which is not quantised: the correction is for that too."""
    rows = write([{"messages": row["messages"][:1]} for row in reviews[:12]])
    rewards = cycle([0.0, 1.0])
    options = {"batch_size": 4, "n_epochs": 1, "max_completion_tokens": 8}
    run = make_run(training_file=rows, method=TrainingMethod.REINFORCEMENT, quantization="4bit", **options)
    monkeypatch.setattr(reinforcement, "connected", lambda: Drawing(run, lambda _: next(rewards)))
    reinforcement.train(run, run.spec(), Flag())
    first, *_, last = (event.data for event in run.events() if "sampling_difference" in event.data)
    assert 0 < first["sampling_difference"] < 1
    assert last["gradient_norm"] > 0


def test_without_bitsandbytes_the_check_says_what_to_install(make_run, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as good as not installed
    run = make_run(quantization="4bit", batch_size=4)
    assert main([str(run.path), "--preflight"], Flag()) is Exit.FINISHED
    report = run.preflight()
    assert report["ok"] is False
    assert "extras 'cpu' and 'cuda'" in report["reason"]
