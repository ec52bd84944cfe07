"""Kahneman-Tversky optimization (arXiv:2402.01306): the adapter learns from answers that are labelled good or bad.

The divergence from the reference is measured on prompts with other prompts' answers: each row takes the answer of the
row before it.
"""

from threading import Event as Flag

from datasets import Dataset
from trl import KTOConfig, KTOTrainer

from trainer.methods.session import Session
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec


def train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    session = Session(run, spec, stop)
    numbers = session.start("rows")
    good = sum(session.rows["label"])
    bad = len(session.rows) - good
    session.rows = _with_mismatched_answers(session.rows)
    session.held_out = session.held_out and _with_mismatched_answers(session.held_out)
    session.train(
        KTOTrainer,
        KTOConfig,
        max_length=None,
        beta=numbers.beta,
        desirable_weight=max(1.0, bad / max(1, good)),  # both kinds weigh the same in all: the paper's equation 8
        undesirable_weight=max(1.0, good / max(1, bad)),
    )


def _with_mismatched_answers(rows: Dataset) -> Dataset:
    answers = rows["completion_ids"][:]
    return rows.add_column("KL_completion_ids", answers[-1:] + answers[:-1])
