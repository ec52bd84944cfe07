"""Full fine-tuning: the base model's own linear layers learn to give the answers of the rows, as supervised has them.

What is served at once is the low-rank adapter that is extracted at each checkpoint; the best checkpoint keeps the whole
model besides.
"""

from threading import Event as Flag

from trainer.methods import supervised
from trainer.methods.extraction import Extraction
from trainer.methods.session import Session
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec


def train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    session = Session(run, spec, stop)
    compared = session.rows if session.held_out is None else session.held_out
    supervised.learn(session, spec, Extraction(run, spec, compared))
