"""DPO and KTO move the adapter to the better answers."""

from threading import Event as Flag

import pytest

from trainer.endings import DataRefused
from trainer.methods import dpo, kto
from trainer.training_method import TrainingMethod

THANKS = {"role": "assistant", "content": "Thank you for your review."}
SHORT = {"batch_size": 8, "n_epochs": 2, "learning_rate_multiplier": 5.0}


def test_dpo_comes_to_prefer_the_preferred_answers_of_held_out_pairs(make_run, write, reviews) -> None:
    pairs = [
        {"input": {"messages": [asked]}, "preferred_output": [answer], "non_preferred_output": [THANKS]}
        for asked, answer in (row["messages"] for row in reviews)
    ]
    files = {"training_file": write(pairs[:32]), "validation_file": write(pairs[100:116], "valid.jsonl")}
    run = make_run(method=TrainingMethod.DPO, **files, **SHORT)
    dpo.train(run, run.spec(), Flag())
    first, last = run.checkpoints()[0].marker.metrics, run.checkpoints()[-1].marker.metrics
    assert last["valid_preference_accuracy"] >= 0.95
    assert last["valid_reward_margin"] > first["valid_reward_margin"]


def test_kto_rewards_good_answers_more_than_bad_ones(make_run, write, reviews) -> None:
    rows = [
        {"messages": [row["messages"][0], row["messages"][1] if number % 2 else THANKS], "label": number % 2 == 1}
        for number, row in enumerate(reviews)
    ]
    files = {"training_file": write(rows[:32]), "validation_file": write(rows[100:116], "valid.jsonl")}
    run = make_run(method=TrainingMethod.KTO, **files, **SHORT)
    kto.train(run, run.spec(), Flag())
    first, last = run.checkpoints()[0].marker.metrics, run.checkpoints()[-1].marker.metrics
    assert last["valid_reward_margin"] > first["valid_reward_margin"] > 0


@pytest.mark.parametrize(
    ("method", "train", "rows"),
    [
        (TrainingMethod.DPO, dpo.train, [{"chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(10)]),
        (TrainingMethod.KTO, kto.train, [{"completion": f"it is {n}", "label": n % 2 == 0} for n in range(10)]),
    ],
)
def test_plain_text_without_a_prompt_trains_too(make_run, write, method: TrainingMethod, train, rows) -> None:
    run = make_run(method=method, training_file=write(rows), batch_size=5, n_epochs=1)
    train(run, run.spec(), Flag())
    assert run.result() is not None


def test_rows_for_another_method_are_refused(make_run, write, reviews) -> None:
    run = make_run(method=TrainingMethod.DPO, training_file=write(reviews[:16]))
    with pytest.raises(DataRefused, match="needed for method dpo"):
        dpo.train(run, run.spec(), Flag())
