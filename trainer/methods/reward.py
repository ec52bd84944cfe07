"""Reward modelling (Bradley and Terry; arXiv:2203.02155): the adapter learns which answer people prefer.

The reward is the log-odds of "yes" against "no" after the conversation, so an ordinary adapter holds it: see
``trainer.reward_tokens``.
"""

from threading import Event as Flag
from typing import Final

from trl import RewardConfig, RewardTrainer

from trainer.methods.session import Session
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec

CENTERING: Final = 0.01
"""Weight of a term that keeps rewards around 0 (arXiv:2312.09244), so that those of two versions can be compared."""


def train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    session = Session(run, spec, stop)
    session.start("pairs")
    session.train(RewardTrainer, RewardConfig, max_length=None, center_rewards_coefficient=CENTERING)
