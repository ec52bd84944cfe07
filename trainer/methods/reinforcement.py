"""Reinforcement learning: the adapter learns from the rewards that a grader gives its own answers.

The server that serves draws the answers, with the adapter as each step leaves it; TRL's trainers make the gradients:
GRPO (arXiv:2402.03300) with the correction for the engine's other rounding, or RLOO (arXiv:2402.14740).
"""

from threading import Event as Flag
from typing import Any

from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from trainer.methods.hyperparameters import DrawnHyperparameters
from trainer.methods.policy import ServedPolicy, on_server, prompts
from trainer.methods.policy_client import connected, made_up
from trainer.methods.session import Session
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec

_TRAINERS: Any = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}
AT_ONCE = 64
"""Answers that a validation requests at once."""


def train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    session = Session(run, spec, stop)
    numbers = session.start("prompts")
    assert isinstance(numbers, DrawnHyperparameters), "resolve() returns those for this method"
    policy = ServedPolicy(run, spec, numbers, session.rows, session.held_out, made_up if spec.is_dry else connected())
    session.rows = prompts(session.rows, policy.TRAINING)
    session.held_out = session.held_out and prompts(session.held_out, policy.VALIDATION)
    trainer, config = _TRAINERS[numbers.algorithm]
    answers = numbers.batch_size * numbers.samples
    session.train(
        on_server(trainer, policy),
        config,
        max_steps=numbers.steps,
        per_device_train_batch_size=numbers.micro_batch_size,
        gradient_accumulation_steps=answers // numbers.micro_batch_size,
        per_device_eval_batch_size=numbers.eval_samples * max(1, AT_ONCE // numbers.eval_samples),
        num_generations=numbers.samples,
        num_generations_eval=numbers.eval_samples,
        max_completion_length=numbers.max_completion_tokens,
        beta=numbers.beta,
    )
