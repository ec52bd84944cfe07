"""A supervised run teaches the task, reports its progress, and leaves adapters that pass the checks."""

import json
from threading import Event as Flag

import pytest
from safetensors import safe_open

from adapters.base_model import BaseModel
from adapters.checks.inspection import AdapterLimits, inspect_adapter
from embedded import BASE, DATA
from embedded.recipe import score, skills
from trainer.endings import DataRefused, NotFinite
from trainer.methods import supervised
from trainer.methods.__main__ import main
from trainer.run_directory import Exit, RunDirectory


def test_held_out_reviews_are_judged_right_after_three_epochs(sentiment: RunDirectory) -> None:
    rows = skills.read(DATA, "sentiment", "heldout")[:40]
    best = sentiment.checkpoint_path(75).parent / sentiment.result().best_checkpoint
    assert score.exact_match(*score.load(BASE), rows) < 0.05
    assert score.exact_match(*score.load(BASE, best / "adapter"), rows) >= 0.85


def test_the_checks_admit_every_checkpoint(sentiment: RunDirectory) -> None:
    base = BaseModel.from_directory(BASE, "base")
    for checkpoint in sentiment.checkpoints():
        assert sorted(path.name for path in checkpoint.adapter.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
        assert (
            inspect_adapter(checkpoint.adapter, base, AdapterLimits(max_rank=16, max_bytes=1 << 30)).report.rank == 16
        )


def test_an_adapter_is_stored_as_its_base_is_and_names_no_path(sentiment: RunDirectory) -> None:
    adapter = sentiment.checkpoints()[-1].adapter
    with safe_open(adapter / "adapter_model.safetensors", "pt") as weights:
        assert {str(weights.get_slice(name).get_dtype()) for name in weights.keys()} == {"BF16"}  # noqa: SIM118
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"


def test_every_step_is_told_once_with_its_numbers(sentiment: RunDirectory) -> None:
    metrics = [event.data for event in sentiment.events() if "train_loss" in event.data]
    assert [data["step"] for data in metrics] == list(range(1, 76))
    assert {"train_mean_token_accuracy", "learning_rate", "tokens_per_second", "eta_s"} <= metrics[-1].keys()
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"] / 10


def test_every_checkpoint_is_validated_and_the_best_is_named(sentiment: RunDirectory) -> None:
    losses = {made.name: made.marker.metrics["full_valid_loss"] for made in sentiment.checkpoints()}
    result = sentiment.result()
    assert len(losses) == 3
    assert losses[result.best_checkpoint] == min(losses.values())
    assert result.metrics["full_valid_loss"] == min(losses.values())
    assert (result.steps, result.last_checkpoint) == (75, "step-75")
    assert result.trained_tokens > 10_000


def test_a_finished_run_keeps_adapters_and_no_training_state(sentiment: RunDirectory) -> None:
    assert [sorted(path.name for path in made.path.iterdir()) for made in sentiment.checkpoints()] == [
        ["COMPLETE", "adapter"]
    ] * 3


def test_a_loss_or_gradient_that_is_no_number_ends_the_run_at_the_last_finite_checkpoint(
    make_run, write, reviews
) -> None:
    run = make_run(
        training_file=write(reviews[:16]),
        batch_size=4,
        n_epochs=2,
        checkpoint_steps=1,
        alpha=1e30,
    )
    assert main([str(run.path)], Flag()) is Exit.NOT_FINITE
    assert run.events()[-1].level == "error"
    assert run.result() is None
    assert all(made.marker.metrics["train_loss"] < 100 for made in run.checkpoints())
    with pytest.raises(NotFinite):  # starting again does not help, and does no harm
        supervised.train(run, run.spec(), Flag())


def test_a_file_with_bad_rows_is_refused_with_all_of_them(make_run, write, reviews) -> None:
    run = make_run(training_file=write([*reviews[:10], {"messages": []}, {"text": "x"}]))
    with pytest.raises(DataRefused) as refused:
        supervised.train(run, run.spec(), Flag())
    assert [fault.line for fault in refused.value.faults] == [11, 12]


def test_rows_that_are_too_long_are_left_out_only_when_asked(make_run, write, reviews) -> None:
    long = {"messages": [*reviews[0]["messages"][:1], {"role": "assistant", "content": "long " * 400}]}
    rows = write([*reviews[:10], long])
    run = make_run("strict", training_file=rows, max_length=100)
    with pytest.raises(DataRefused):
        supervised.train(run, run.spec(), Flag())
    run = make_run("lenient", training_file=rows, max_length=100, drop_long=True, n_epochs=1, batch_size=10)
    supervised.train(run, run.spec(), Flag())
    assert run.result().steps == 1
    assert [event.data["lines"] for event in run.events() if event.level == "warn"] == [[11]]


def test_validation_that_gets_worse_stops_the_run_early(make_run, write, reviews) -> None:
    wrong = {"positive": "negative", "negative": "mixed", "mixed": "positive"}
    turned = [
        {"messages": [question, {**answer, "content": wrong[answer["content"]]}]}
        for question, answer in (row["messages"] for row in reviews[:8])
    ]
    run = make_run(
        training_file=write(reviews[:64]),
        validation_file=write(turned, "valid.jsonl"),
        batch_size=8,
        n_epochs=10,
        checkpoint_steps=10,
        patience=1,
    )
    supervised.train(run, run.spec(), Flag())
    result = run.result()
    assert result.steps < 80
    assert run.checkpoints()[-1].marker.last
    assert result.best_checkpoint != result.last_checkpoint


def test_packed_rows_make_the_loss_that_they_make_apart(make_run, write, reviews) -> None:
    rows = write(reviews[:10])
    losses = []
    for packing in (False, True):
        run = make_run(f"packing-{packing}", training_file=rows, packing=packing, batch_size=10, n_epochs=1)
        supervised.train(run, run.spec(), Flag())
        losses.append(next(event.data["train_loss"] for event in run.events() if "train_loss" in event.data))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
