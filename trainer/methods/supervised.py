"""Supervised fine-tuning: the adapter learns to give the answers of the rows.

LoRA on all linear layers, or with ``full`` the layers themselves; loss on the tokens of answers with weight 1 and their
end-of-turn tokens alone.
"""

from threading import Event as Flag

from trl import SFTConfig, SFTTrainer

from trainer.methods.checkpoints import Export, export_adapter
from trainer.methods.session import Session
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec


def train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    learn(Session(run, spec, stop), spec)


def learn(session: Session, spec: RunSpec, export: Export = export_adapter) -> None:
    """Train on the rows of ``session``; ``export`` makes an adapter of each checkpoint."""
    if spec.packing:
        session.pack()
    session.start("sequences")
    session.train(
        SFTTrainer,
        SFTConfig,
        export=export,
        max_length=None,  # rows fit; TRL's own default would cut them at 1024
        packing=spec.packing,
        dataset_kwargs={"skip_prepare_dataset": True},  # the rows are token ids and labels already
    )
