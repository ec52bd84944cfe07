"""A finished run leaves its numbers as a table, a picture, and thinned in its result."""

import csv
import shutil
from itertools import pairwise
from pathlib import Path
from threading import Event as Flag

import pytest
from matplotlib.image import imread

from trainer.methods import result_files
from trainer.methods.__main__ import main
from trainer.methods.curves import MOST_POINTS, curves, thinned
from trainer.run_directory import LOSS_PLOT, METRICS_FILE, RESULT_FILES, Exit, RunDirectory, RunEvent


@pytest.fixture(scope="module")
def finished(sentiment: RunDirectory, tmp_path_factory) -> RunDirectory:
    run = RunDirectory(tmp_path_factory.mktemp("finished"))
    for name in ("spec.json", "events.jsonl", "result.json"):
        shutil.copy(sentiment.path / name, run.path)
    assert main([str(run.path)], Flag()) is Exit.FINISHED
    return run


def rows(run: RunDirectory) -> list[dict[str, str]]:
    with (run.path / METRICS_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_for_every_step_and_validation_where_it_was(finished: RunDirectory) -> None:
    table = rows(finished)
    assert [int(row["step"]) for row in table] == list(range(1, 76))
    assert list(table[0]) == [
        "step",
        "epoch",
        "learning_rate",
        "train_loss",
        "train_mean_token_accuracy",
        "gradient_norm",
        "tokens_per_second",
        "full_valid_loss",
        "full_valid_mean_token_accuracy",
    ]
    validated = {int(row["step"]): float(row["full_valid_loss"]) for row in table if row["full_valid_loss"]}
    events = [event.data for event in finished.events() if "full_valid_loss" in event.data]
    assert validated == {data["step"]: data["full_valid_loss"] for data in events}
    assert all(float(row["train_loss"]) > 0 for row in table)


def test_the_picture_shows_training_validation_and_the_best_checkpoint(finished: RunDirectory) -> None:
    picture = imread(finished.path / LOSS_PLOT)
    assert picture.shape[:2] == tuple(int(side * result_files.DOTS_PER_INCH) for side in result_files.SIZE_INCHES[::-1])
    seen = {tuple(pixel) for pixel in (picture[..., :3] * 255).round().astype(int).reshape(-1, 3).tolist()}
    assert {(0x2F, 0x6F, 0xB3), (0xD9, 0x70, 0x2B), (0x33, 0x38, 0x3D)} <= seen


def test_a_run_without_validation_and_with_one_step_is_drawn_too(finished: RunDirectory) -> None:
    drawn = {"train_loss": [(1, 0.0)]}
    assert result_files.draw(drawn, finished.spec(), finished.result()).startswith(b"\x89PNG")


def test_started_again_a_finished_run_keeps_the_files_that_it_has(finished: RunDirectory) -> None:
    (finished.path / LOSS_PLOT).unlink()
    (finished.path / METRICS_FILE).write_text("mine")
    assert main([str(finished.path)], Flag()) is Exit.FINISHED
    assert (finished.path / METRICS_FILE).read_text() == "mine"
    made = {path.name for path in finished.path.iterdir() if path.name in RESULT_FILES}
    assert made == {LOSS_PLOT, METRICS_FILE}  # no answers were drawn
    (finished.path / METRICS_FILE).unlink()
    assert main([str(finished.path)], Flag()) is Exit.FINISHED
    assert len(rows(finished)) == 75


def test_the_result_has_the_curves_of_the_events(sentiment: RunDirectory) -> None:
    found = sentiment.result().curves
    assert [step for step, _ in found["train_loss"]] == list(range(1, 76))
    assert [step for step, _ in found["full_valid_loss"]] == [made.step for made in sentiment.checkpoints()]
    assert found["train_loss"][-1][1] == pytest.approx(
        sentiment.checkpoints()[-1].marker.metrics["train_loss"], rel=1e-5
    )


@pytest.mark.parametrize("steps", [1, 2, MOST_POINTS, MOST_POINTS + 1, 12_345])
def test_thinned_curves_keep_both_ends_and_are_even(steps: int) -> None:
    events = [
        RunEvent(message="", data={"step": step, "train_loss": 1 / step}, type="metrics")
        for step in range(1, steps + 1)
    ]
    (name, curve), *more = thinned(curves(events)).items()
    assert (name, more) == ("train_loss", [])
    kept = [step for step, _ in curve]
    assert len(kept) == min(steps, MOST_POINTS)
    assert (kept[0], kept[-1]) == (1, steps)
    gaps = [later - earlier for earlier, later in pairwise(kept)]
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


def test_the_mean_follows_without_lag() -> None:
    assert result_files.smoothed([1.0, 2.0, 3.0, 4.0, 5.0], 1) == [1.5, 2.0, 3.0, 4.0, 4.5]
    assert result_files.smoothed([], 1) == []


def test_no_file_stays_half_written(finished: RunDirectory) -> None:
    assert [path for path in Path(finished.path).iterdir() if path.name.startswith(".")] == []
