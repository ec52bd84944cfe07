"""How well an adapter without a prompt agrees with its teacher behind one, as the serving engine answers with both."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import islice
from statistics import mean
from typing import Any, Final

from trainer.methods.teacher import VALIDATION, TaughtAnswer, Teacher
from trainer.rendering import token_rows
from trainer.run_directory import RunCheckpoint, RunDirectory

MOST_QUESTIONS: Final = 500
"""Held-out questions that are compared."""
_WITHOUT_PROMPT: Final = "without_prompt"


def measure(run: RunDirectory, teacher: Teacher, checkpoint: RunCheckpoint) -> Mapping[str, Any]:
    """Return the entry ``distillation`` of a version's report, and append it to the run's events.

    Raises:
        SamplingRefused: the server draws no answers.
        Stopped: the run was stopped before all were drawn.
    """
    assert teacher.held_out is not None, "a run that is no dry one holds questions out"
    questions = teacher.held_out.select(range(min(MOST_QUESTIONS, len(teacher.held_out))))
    asked = questions["prompt_ids"]
    taught = [
        first for first, *_ in islice(teacher.answers(VALIDATION, teacher.held_out["taught_ids"]), len(questions))
    ]
    before = [first for first, *_ in teacher.answers(_WITHOUT_PROMPT, asked)]
    policy = run.policy_path(checkpoint.step)
    shutil.rmtree(policy, ignore_errors=True)
    shutil.copytree(checkpoint.adapter, policy)
    adapted = [first for first, *_ in teacher.answers(checkpoint.name, asked, step=checkpoint.step)]
    tokens, taught_tokens = mean(questions[token_rows.TOKENS]), mean(map(len, questions["taught_ids"]))
    found = {
        "questions": len(questions),
        "agreement": round(agreement(taught, adapted), 4),
        "token_agreement": round(token_agreement(taught, adapted), 4),
        "agreement_without_prompt": round(agreement(taught, before), 4),
        "teacher_prompt_tokens": round(taught_tokens, 1),
        "prompt_tokens": round(tokens, 1),
        "saved_tokens": round(taught_tokens - tokens, 1),
    }
    teacher.report(
        f"Agrees with the teacher on {found['agreement']:.2f} of {len(questions)} questions that were not trained on "
        f"(without the prompt, the teacher does on {found['agreement_without_prompt']:.2f}), with {tokens:.0f} tokens "
        f"of prompt instead of {taught_tokens:.0f}: {found['saved_tokens']:.0f} saved a request",
        distillation=found,
    )
    return found


def agreement(taught: Sequence[TaughtAnswer], adapted: Sequence[TaughtAnswer]) -> float:
    """Return the share of answers that are the same text."""
    return mean(float(one.text == other.text) for one, other in zip(taught, adapted, strict=True))


def token_agreement(taught: Sequence[TaughtAnswer], adapted: Sequence[TaughtAnswer]) -> float:
    """Return the share of tokens that are the same in the same place; of a pair, the longer answer counts."""
    pairs = [(one.ids, other.ids) for one, other in zip(taught, adapted, strict=True)]
    same = sum(one == other for pair in pairs for one, other in zip(*pair, strict=False))
    return same / max(1, sum(max(map(len, pair)) for pair in pairs))
