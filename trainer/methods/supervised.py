"""Supervised fine-tuning: the adapter learns to give the answers of the rows.

LoRA on all linear layers; loss on the tokens of answers with weight 1 and their end-of-turn tokens alone.
"""

from threading import Event as Flag

from trl import SFTConfig, SFTTrainer

from trainer.methods.session import Session
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec


def train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    learn(Session(run, spec, stop), spec)


def learn(session: Session, spec: RunSpec) -> None:
    """Train on the labelled token ids of ``session``."""
    if spec.packing:
        session.pack()
    session.start("sequences")
    session.train(
        SFTTrainer,
        SFTConfig,
        max_length=None,  # rows fit; TRL's own default would cut them at 1024
        packing=spec.packing,
        dataset_kwargs={"skip_prepare_dataset": True},  # the rows are token ids and labels already
    )
