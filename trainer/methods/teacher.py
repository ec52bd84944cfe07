"""The teacher of a distillation: a served model that answers each question behind the prompt, before the first step.

Its answers are kept, so that a run that goes on after a crash goes on with the same ones::

    scratch/taught/PART.jsonl       the answers to each question of a part, as they are drawn
    token_rows/taught_PART.arrow    the questions without the prompt, with these answers: what is trained on

The parts are the questions that are trained on and those that are held out.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event as Flag
from typing import Any, Final

from datasets import Dataset

from trainer.endings import Stopped
from trainer.methods import data_sets
from trainer.methods.hyperparameters import teaching
from trainer.methods.policy_client import Draw
from trainer.methods.progress import Reporter
from trainer.policy_sampling import PolicyAnswer, PolicyPrompt, PolicyRequest
from trainer.rendering import token_rows
from trainer.run_directory import SAMPLES_FILE, RunDirectory, RunEvent
from trainer.run_spec import RunSpec

AT_ONCE: Final = 64
"""Questions in a request; answers are kept after each."""
HELD_OUT: Final = 0.1
"""Share of the questions that is not trained on where there is no validation file."""
MOST_HELD_OUT: Final = 100
TRAINING, VALIDATION = "training", "validation"


@dataclass(frozen=True, slots=True)
class TaughtAnswer:
    """An answer: its token ids, with the one on which it stopped, and its text."""

    ids: list[int]
    text: str


class Teacher:
    """Has the questions of a run answered.

    Args:
        run: keeps the answers.
        spec: the run's options.
        draw: draws answers on the server.
        stop: asks for the end of drawing; what was drawn is kept.

    Raises:
        SpecRefused: there is no prompt to distil.
        BaseRefused, DataRefused: see ``data_sets.check``.
    """

    def __init__(self, run: RunDirectory, spec: RunSpec, draw: Draw, stop: Flag) -> None:
        self._run, self._spec, self._draw, self._stop = run, spec, draw, stop
        self._numbers = teaching(spec)
        rendering = data_sets.report(run)
        data_sets.check(rendering, run)
        self._reporter = Reporter(run)
        questions = data_sets.load(run, token_rows.TRAINING)
        if spec.is_dry:
            self.training, self.held_out = questions, None
        elif spec.validation_file is not None:
            self.training, self.held_out = questions, data_sets.load(run, token_rows.VALIDATION)
        else:
            places = held_out(len(questions), spec.seed)
            self.training = questions.select([place for place in range(len(questions)) if place not in places])
            self.held_out = questions.select(sorted(places))
        longest = max(max(part[token_rows.TOKENS]) for part in (self.training, self.held_out) if part is not None)
        self.most_tokens: int = min(self._numbers["max_completion_tokens"], rendering.most_tokens - longest)
        """Tokens of an answer."""

    def teach(self) -> None:
        """Have the questions answered that are not answered yet, and write the rows that are trained on.

        Raises:
            SamplingRefused: the server draws no answers.
            Stopped: the run was stopped before all were drawn.
        """
        chance = {} if self._spec.is_dry else {name: self._numbers[name] for name in ("samples", "temperature")}
        self._teach(TRAINING, self.training, chance)
        if self.held_out is not None:
            self._teach(VALIDATION, self.held_out, {})  # answers without chance are what others are compared with

    def _teach(self, part: str, questions: Dataset, chance: Mapping[str, Any]) -> None:
        target = self._run.token_rows / file_of(part)
        if target.exists():
            return
        drawn = partial(self.answers, part, questions["taught_ids"], **chance)
        staged = target.with_name(f".{target.name}")
        with token_rows.writer(staged) as rows:
            for asked, answers in zip(questions["prompt_ids"], drawn(), strict=True):
                for answer in answers:
                    labels = [token_rows.IGNORED] * len(asked) + answer.ids
                    rows.write({"input_ids": asked + answer.ids, "labels": labels})
        if part == TRAINING and not self._spec.is_dry:
            self._run.write_bytes(SAMPLES_FILE, b"".join(_shown(questions["item"], drawn())))
        staged.replace(target)

    def answers(
        self,
        name: str,
        prompts: Sequence[list[int]],
        *,
        samples: int = 1,
        temperature: float = 0.0,
        step: int | None = None,
    ) -> Iterator[list[TaughtAnswer]]:
        """Yield the answers to each of ``prompts``, drawn once and kept as ``name``.

        They are the teacher's; with ``step``, those of the adapter at ``policy_path(step)``.

        Raises:
            SamplingRefused, Stopped: as ``teach``.
        """
        kept = self._run.scratch / "taught" / f"{name}.jsonl"
        kept.parent.mkdir(parents=True, exist_ok=True)
        with kept.open("ab", buffering=0) as file:
            done = _keep_whole_requests(kept, len(prompts))
            while done < len(prompts):
                if self._stop.is_set():
                    raise Stopped(f"stopped after {done} of {len(prompts)} questions; the run goes on from there")
                request = PolicyRequest(
                    step=step,
                    prompts=[PolicyPrompt(ids=ids) for ids in prompts[done : done + AT_ONCE]],
                    samples=samples,
                    temperature=temperature,
                    max_tokens=self.most_tokens,
                    seed=self._spec.seed * 1_000_003 + done,
                )
                lines = [_line(answers) for answers in self._draw(request).answers]
                file.write(b"".join(lines))
                os.fsync(file.fileno())
                done += len(lines)
                self.report(f"{done} of {len(prompts)} questions are answered ({name.replace('_', ' ')})")
        with kept.open("rb") as file:
            for line in file:
                yield [TaughtAnswer(**answer) for answer in json.loads(line)]

    def report(self, message: str, **data: Any) -> None:
        """Append an event to the run's."""
        if not self._spec.is_dry:
            self._reporter.report(RunEvent(message=message, data=data))


def file_of(part: str) -> str:
    """Return the name of the file of token rows of a part."""
    return f"taught_{part}.arrow"


def held_out(questions: int, seed: int) -> frozenset[int]:
    """Return the places of the questions that are not trained on."""
    count = min(MOST_HELD_OUT, max(1, round(questions * HELD_OUT)))
    return frozenset(random.Random(f"held out {seed}").sample(range(questions), count))  # noqa: S311 - no secret


def _keep_whole_requests(kept: Path, questions: int) -> int:
    """Cut what a killed process left of a request, whose seed decides on its answers together; return the lines."""
    lines = kept.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if len(whole) < questions:
        whole = whole[: len(whole) // AT_ONCE * AT_ONCE]
    os.truncate(kept, sum(map(len, whole)))
    return len(whole)


def _line(answers: Sequence[PolicyAnswer]) -> bytes:
    return json.dumps([{"ids": answer.ids, "text": answer.text} for answer in answers]).encode() + b"\n"


def _shown(items: Iterable[str], drawn: Iterable[Sequence[TaughtAnswer]]) -> Iterator[bytes]:
    """Yield questions and answers as rows of a training file."""
    for item, answers in zip(items, drawn, strict=True):
        row = json.loads(item)
        for answer in answers:
            messages = [*row["messages"], {"role": "assistant", "content": answer.text}]
            yield json.dumps({**row, "messages": messages}, ensure_ascii=False).encode() + b"\n"
