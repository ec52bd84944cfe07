"""A job is not worse than a plain script of TRL with the same data, method, seed and numbers.

The scripts leave to TRL what the jobs do themselves: templates, masks, batches, drawing answers, saving. Both
adapters are measured on rows that neither has seen, and compared by the paired interval that evals use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

from embedded import BASE, DATA
from embedded.recipe import score
from tests.trainer.methods.drawing import Drawing
from trainer.evals.comparison import compare, mean_interval
from trainer.methods import dpo, reinforcement, reward, supervised
from trainer.reward_tokens import reward_tokens
from trainer.run_directory import RunDirectory
from trainer.training_method import TrainingMethod

Talk = list[dict[str, str]]
Row = dict[str, Any]
Scores = list[float]
THANKS = "Thank you for your review."
SEED = 5
RANK = 8
SEEDS = (1, 2, 3)
"""Of reinforcement: two runs draw other answers, so one seed says little."""


def talks(skill: str, split: str, number: int) -> list[Talk]:
    lines = (DATA / skill / f"{split}.jsonl").read_text().splitlines()[:number]
    return [json.loads(line)["messages"] for line in lines]


def is_short(text: str) -> float:
    return float(len(text.split()) <= 2)


def base() -> Any:
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)


def adapted(run: RunDirectory) -> Any:
    return PeftModel.from_pretrained(base(), run.best_checkpoint().adapter).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture
def plain(tmp_path: Path) -> Callable[..., Any]:
    """Trains with a trainer of TRL's and the numbers of a run, as a script would; returns the model."""

    def plain(trainer: Any, config: Any, run: RunDirectory, rows: Sequence[Row], **options: Any) -> Any:
        numbers = run.result().hyperparameters
        arguments = {
            "output_dir": str(tmp_path / "plain"),
            "num_train_epochs": numbers["n_epochs"],
            "per_device_train_batch_size": numbers["batch_size"],
            "learning_rate": numbers["learning_rate"],
            "lr_scheduler_type": "cosine",
            "warmup_steps": numbers["warmup_steps"],
            "seed": run.spec().seed,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        }
        model = options.pop("model", None) or base()
        beside = {name: options.pop(name) for name in ("reward_funcs",) if name in options}
        task = "SEQ_CLS" if config is RewardConfig else "CAUSAL_LM"
        training = trainer(
            model=model,
            args=config(**arguments | options),
            train_dataset=Dataset.from_list(list(rows)),
            processing_class=AutoTokenizer.from_pretrained(BASE),
            peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type=task),
            **beside,
        )
        training.train()
        return training.model.eval()

    return plain


@pytest.fixture
def job(make_run, write, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunDirectory]:
    """Trains a run of a method on rows."""

    def job(method: TrainingMethod, rows: Sequence[Row], *, seed: int = SEED, **options: Any) -> RunDirectory:
        fields = {"training_file": write(rows), "method": method, "seed": seed, "rank": RANK}
        run: RunDirectory = make_run(f"seed-{seed}", **fields, **options)
        monkeypatch.setattr(reinforcement, "connected", lambda: Drawing(run, is_short))
        module = {"supervised": supervised, "dpo": dpo, "reward": reward, "reinforcement": reinforcement}[method]
        module.train(run, run.spec(), Flag())
        return run

    return job


def assert_not_worse(name: str, of_job: Scores, of_plain: Scores) -> None:
    found = compare(of_job, of_plain)
    means = [sum(scores) / len(scores) for scores in (of_job, of_plain)]
    interval = f"{found.difference:+.3f} [{found.interval.low:+.3f}, {found.interval.high:+.3f}]"
    print(f"{name}: job {means[0]:.3f}, plain TRL {means[1]:.3f}, difference {interval}, {found.items} rows")
    assert not found.is_worse


def right_answers(model: Any, tokenizer: Any, held_out: Sequence[Talk]) -> Scores:
    """1 for each row whose answer, without chance, is the row's."""
    answers = score.answers(model, tokenizer, [talk[:-1] for talk in held_out], 48)
    return [float(answer == talk[-1]["content"]) for answer, talk in zip(answers, held_out, strict=True)]


def likelihood(model: Any, tokenizer: Any, asked: Talk, answer: str) -> float:
    """The log-probability of an answer."""
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = [*prompt, *tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([whole])).logits[0, :-1].log_softmax(-1)
    return float(logprobs[torch.arange(len(whole) - 1), torch.tensor(whole[1:])][len(prompt) - 1 :].sum())


def test_supervised(job, plain, tokenizer) -> None:
    trained = talks("sql", "train", 200)
    run = job(TrainingMethod.SUPERVISED, [{"messages": talk} for talk in trained], n_epochs=3, batch_size=8)
    rows = [{"prompt": talk[:-1], "completion": talk[-1:]} for talk in trained]
    model = plain(SFTTrainer, SFTConfig, run, rows)
    held_out = talks("sql", "heldout", 100)
    assert_not_worse("supervised", *(right_answers(each, tokenizer, held_out) for each in (adapted(run), model)))


def test_dpo(job, plain, tokenizer) -> None:
    pairs = [
        {"prompt": talk[:1], "chosen": talk[1:], "rejected": answered(talk)[1:]}
        for talk in talks("sentiment", "train", 64)
    ]
    run = job(TrainingMethod.DPO, pairs, n_epochs=2, batch_size=8, learning_rate_multiplier=5.0)
    model = plain(DPOTrainer, DPOConfig, run, pairs, beta=run.result().hyperparameters["beta"])

    def preferred(model: Any) -> Scores:
        """1 for each held-out pair of which the better answer is more likely."""
        return [
            float(
                likelihood(model, tokenizer, talk[:1], talk[1]["content"])
                > likelihood(model, tokenizer, talk[:1], THANKS)
            )
            for talk in talks("sentiment", "heldout", 100)
        ]

    assert_not_worse("dpo", preferred(adapted(run)), preferred(model))


def test_reward(job, plain, tokenizer) -> None:
    """The plain script trains a head of its own too, which a served adapter cannot have."""
    trained, held_out = talks("sentiment", "train", 48), talks("sentiment", "heldout", 100)
    rows = [{"messages": talk[:1], "ranking": [talk[1]["content"], THANKS]} for talk in trained]
    run = job(TrainingMethod.REWARD, rows, n_epochs=1, batch_size=8, learning_rate_multiplier=5.0)
    pairs = [{"chosen": talk, "rejected": answered(talk)} for talk in trained]
    scorer = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=1, dtype=torch.float32)
    model = plain(RewardTrainer, RewardConfig, run, pairs, model=scorer, center_rewards_coefficient=reward.CENTERING)
    better, worse = reward_tokens(lambda text: tokenizer.encode(text, add_special_tokens=False))
    served = adapted(run)

    def ids(talk: Talk) -> torch.Tensor:
        return tokenizer.apply_chat_template(talk, return_tensors="pt", return_dict=True)["input_ids"]

    def of_job(talk: Talk) -> float:
        logits = served(input_ids=ids(talk)).logits[0, -1]
        return float(logits[better] - logits[worse])

    def of_plain(talk: Talk) -> float:
        return float(model(input_ids=ids(talk)).logits[0, 0])

    with torch.no_grad():
        scores = [
            [float(reward_of(talk) > reward_of(answered(talk))) for talk in held_out]
            for reward_of in (of_job, of_plain)
        ]
    assert_not_worse("reward", *scores)


def answered(talk: Talk) -> Talk:
    """The talk with the answer that was not preferred."""
    return [talk[0], {"role": "assistant", "content": THANKS}]


def test_reinforcement(job, plain, tokenizer) -> None:
    trained, held_out = talks("pirate", "train", 96), talks("pirate", "heldout", 100)
    numbers = {"n_epochs": 1, "batch_size": 8, "max_completion_tokens": 16, "learning_rate_multiplier": 10.0}

    def short_answers(model: Any) -> float:
        answers = score.answers(model, tokenizer, [talk[:-1] for talk in held_out], 16)
        return sum(map(is_short, answers)) / len(answers)

    differences = []
    for seed in SEEDS:
        run = job(TrainingMethod.REINFORCEMENT, [{"messages": talk[:1]} for talk in trained], seed=seed, **numbers)
        made = run.result().hyperparameters
        model = plain(
            GRPOTrainer,
            GRPOConfig,
            run,
            [{"prompt": talk[:1]} for talk in trained],
            reward_funcs=lambda completions, **_: [is_short(completion[0]["content"]) for completion in completions],
            per_device_train_batch_size=made["batch_size"] * made["samples"],
            num_generations=made["samples"],
            max_completion_length=made["max_completion_tokens"],
            beta=made["beta"],
        )
        of_job, of_plain = (short_answers(each) for each in (adapted(run), model))
        print(f"reinforcement, seed {seed}: job {of_job:.2f}, plain TRL {of_plain:.2f}")
        differences.append(of_job - of_plain)
    interval = mean_interval(differences)
    print(f"difference {sum(differences) / len(differences):+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]")
    assert interval.high >= 0
