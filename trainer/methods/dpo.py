"""Direct preference optimization (arXiv:2305.18290): the adapter learns to prefer one answer to another.

The reference is the base itself, or the adapter of the warm start; TRL switches the trained adapter off for it.
"""

from threading import Event as Flag

from trl import DPOConfig, DPOTrainer

from trainer.methods.session import Session
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec


def train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    session = Session(run, spec, stop)
    numbers = session.start("pairs")
    session.train(DPOTrainer, DPOConfig, beta=numbers.beta, max_length=None)
