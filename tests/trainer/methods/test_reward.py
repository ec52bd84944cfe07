"""A reward model learns from rankings, as an ordinary adapter whose reward is the log-odds of two tokens."""

from __future__ import annotations

from threading import Event as Flag

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from embedded import BASE
from trainer.methods import reward
from trainer.reward_tokens import reward_tokens
from trainer.run_directory import RunDirectory
from trainer.training_method import TrainingMethod

THANKS = "Thank you for your review."
TINY = {"batch_size": 5, "n_epochs": 1}
SHORT = {"batch_size": 8, "n_epochs": 2, "learning_rate_multiplier": 5.0}


def served_reward(run: RunDirectory, question: str, answer: str) -> float:
    """Return the reward as the server has it: from the base model's own output head, after the chat template."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, run.best_checkpoint().adapter)
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)["input_ids"]
    better, worse = reward_tokens(lambda text: tokenizer.encode(text, add_special_tokens=False))
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0, -1].log_softmax(-1)
    return float(logprobs[better] - logprobs[worse])


def test_a_reward_model_learns_which_answers_are_preferred(make_run, write, reviews) -> None:
    rows = [{"messages": row["messages"][:1], "ranking": [row["messages"][1]["content"], THANKS]} for row in reviews]
    files = {"training_file": write(rows[:48]), "validation_file": write(rows[100:116], "valid.jsonl")}
    run = make_run(method=TrainingMethod.REWARD, **files, **SHORT)
    reward.train(run, run.spec(), Flag())
    assert run.checkpoints()[-1].marker.metrics["valid_preference_accuracy"] >= 0.9
    asked, answer = (message["content"] for message in reviews[120]["messages"])
    assert served_reward(run, asked, answer) > served_reward(run, asked, THANKS)


def test_preference_rows_train_a_reward_model_as_rankings_of_two_do(make_run, write, reviews) -> None:
    rankings = [
        {"messages": row["messages"][:1], "ranking": [row["messages"][1]["content"], THANKS]} for row in reviews
    ]
    pairs = [{"prompt": row["messages"][:1], "chosen": row["messages"][1:], "rejected": THANKS} for row in reviews]
    runs = [
        make_run(name, method=TrainingMethod.REWARD, training_file=write(rows[:10], f"{name}.jsonl"), **TINY)
        for name, rows in (("rankings", rankings), ("pairs", pairs))
    ]
    for run in runs:
        reward.train(run, run.spec(), Flag())
    first, second = (run.best_checkpoint().adapter / "adapter_model.safetensors" for run in runs)
    assert first.read_bytes() == second.read_bytes()


def test_a_ranking_of_three_makes_three_pairs(make_run, write, reviews) -> None:
    rows = [
        {"prompt": row["messages"][0]["content"], "ranking": [row["messages"][1]["content"], THANKS, "No."]}
        for row in reviews[:10]
    ]
    run = make_run(method=TrainingMethod.REWARD, training_file=write(rows), batch_size=10, n_epochs=1)
    reward.train(run, run.spec(), Flag())
    assert run.rendering()["training"]["tokens"]["sequences"] == 30
    result = run.result()
    assert result is not None
    assert result.steps == 3
