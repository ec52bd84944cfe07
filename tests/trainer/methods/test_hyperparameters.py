"""The values that "auto" resolves to."""

from pathlib import Path

import pytest

from trainer.methods.hyperparameters import resolve
from trainer.run_spec import RunSpec
from trainer.training_method import TrainingMethod


def spec(**fields) -> RunSpec:
    return RunSpec(base=Path("base"), training_file=Path("train.jsonl"), **fields)


@pytest.mark.parametrize(
    ("rows", "batch_size", "n_epochs"), [(10, 1, 10), (50, 2, 8), (400, 16, 8), (3200, 32, 2), (50_000, 32, 1)]
)
def test_small_data_takes_small_batches_and_more_epochs(rows: int, batch_size: int, n_epochs: int) -> None:
    numbers = resolve(spec(), rows=rows, width=4096, longest=500)
    assert (numbers.batch_size, numbers.n_epochs) == (batch_size, n_epochs)
    assert numbers.steps >= 100


@pytest.mark.parametrize(("width", "rate"), [(256, 3.9e-3), (2000, 5e-4), (4096, 2.4e-4)])
def test_the_rate_falls_with_the_width_of_the_base(width: int, rate: float) -> None:
    assert resolve(spec(), rows=400, width=width, longest=50).learning_rate == pytest.approx(rate, rel=0.02)


def test_the_multiplier_multiplies_and_preferences_take_a_twentieth() -> None:
    plain = resolve(spec(), rows=400, width=4096, longest=50).learning_rate
    assert resolve(spec(learning_rate_multiplier=2.0), rows=400, width=4096, longest=50).learning_rate == 2 * plain
    numbers = resolve(spec(method=TrainingMethod.DPO), rows=400, width=4096, longest=50)
    assert numbers.learning_rate == pytest.approx(plain / 20)


def test_long_rows_are_taken_a_few_at_once_and_the_batch_stays() -> None:
    numbers = resolve(spec(batch_size=16), rows=400, width=4096, longest=6000)
    assert (numbers.micro_batch_size, numbers.batch_size) == (2, 16)


@pytest.mark.parametrize("longest", [50, 20_000])
def test_kto_takes_two_rows_at_once_at_least(longest: int) -> None:
    numbers = resolve(spec(method=TrainingMethod.KTO), rows=10, width=4096, longest=longest)
    assert (numbers.micro_batch_size, numbers.batch_size) == (2, 2)


def test_there_are_at_most_ten_checkpoints() -> None:
    numbers = resolve(spec(n_epochs=50), rows=400, width=4096, longest=50)
    assert numbers.steps / numbers.checkpoint_steps <= 10


@pytest.mark.parametrize(
    ("method", "asked", "batch_size", "micro_batch_size"),
    [
        (TrainingMethod.SUPERVISED, 16, 16, 4),
        (TrainingMethod.SUPERVISED, 5, 8, 2),
        (TrainingMethod.SUPERVISED, 1, 4, 1),
        (TrainingMethod.KTO, 1, 8, 2),
    ],
)
def test_a_batch_is_shared_alike_by_the_processes(
    method: TrainingMethod, asked: int, batch_size: int, micro_batch_size: int
) -> None:
    numbers = resolve(spec(method=method, batch_size=asked, processes=4), rows=400, width=4096, longest=50)
    assert (numbers.batch_size, numbers.micro_batch_size) == (batch_size, micro_batch_size)
    assert numbers.steps == numbers.n_epochs * (400 // batch_size)
