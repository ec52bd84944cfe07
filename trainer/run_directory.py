"""The directory of a run: what the worker and its child process write for each other.

::

    RUN_DIR/
      spec.json                 worker → child: the RunSpec
      events.jsonl              child → worker: one event a line, only ever appended
      checkpoints/step-N/       whole once it carries this name
        COMPLETE                the Marker as JSON, written last
        adapter/                a PEFT directory: adapter_config.json, adapter_model.safetensors
        extraction.json         of a fully trained model: what the adapter keeps of it
        model/                  the whole model, in the base's layout; only the best checkpoint so far has it
        state/                  what resuming needs; only the newest checkpoint keeps it
      result.json               child → worker: the RunResult, once it has ended
      metrics.csv, loss.png     RESULT_FILES, for people; written after result.json, before the child ends
      samples.jsonl             another of them, where answers are drawn: before the first step, or step by step
      verdict.jsonl             another of them, where a verdict was made: written by the server
      rendering.json            trainer.rendering → the child: faults and token counts of the files
      token_rows/               trainer.rendering → the child: their token ids, where no file has a fault
        judged.json             trainer.rendering → the server: the rows of the verdict
      check.json                child → worker: the preflight's report (``--preflight``)
      integrations.json         worker → child: tracking libraries that receive the metrics too
      lock                      held by the child that works here
      warm_start/               an adapter to go on from: a copy, its version may be deleted
      scratch/                  the child's own
        policy/N/               the adapter that answers of step N are drawn with
        taught/                 the answers of a teacher

A child started again on the same directory goes on from the newest checkpoint.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, Literal, Self

from adapters.storage.disk import fsync_directory
from trainer.errors import CheckpointNotFound
from trainer.run_spec import RunSpec

COMPLETE: Final = "COMPLETE"
METRICS_FILE: Final = "metrics.csv"
"""One row a step: its metrics, from the events."""
LOSS_PLOT: Final = "loss.png"
SAMPLES_FILE: Final = "samples.jsonl"
"""Answers that were drawn, a prompt a line, for the first prompts of each step."""
VERDICT_FILE: Final = "verdict.jsonl"
"""The rows of the verdict, one a line, with the scores of all contestants; written by the server."""
RESULT_FILES: Final = (METRICS_FILE, LOSS_PLOT, SAMPLES_FILE, VERDICT_FILE)
"""Files of a finished run for people."""
_STEP: Final = "step-"


class Exit(IntEnum):
    """Exit statuses of the child; with any other it died, and may be started again."""

    FINISHED = 0
    REFUSED = 2
    """The data or the spec cannot be trained on; the reasons are events. Starting again does not help."""
    NOT_FINITE = 3
    """Loss or gradient is no longer a finite number; checkpoints from before are good."""
    STOPPED = 4
    """SIGTERM: a checkpoint was written; starting again goes on from it."""
    NO_SPACE = 5
    """The disk is full; starting again goes on from the last checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """One line of ``events.jsonl``, with the fields of OpenAI's job events."""

    type: Literal["message", "metrics"] = "message"
    level: Literal["info", "warn", "error"] = "info"
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)
    created_at: float = field(default_factory=time.time)
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Marker:
    """Facts about a checkpoint, in its file ``COMPLETE``."""

    step: int
    metrics: Mapping[str, Any]
    """OpenAI's names: train_loss, train_mean_token_accuracy, full_valid_loss, ..."""
    trained_tokens: int
    seconds: float
    """Seconds of training up to here, over all starts."""
    last: bool
    """Whether no step follows: all are done, or the validation loss stopped falling."""


@dataclass(frozen=True, slots=True)
class RunCheckpoint:
    """A complete checkpoint."""

    path: Path
    marker: Marker

    @property
    def step(self) -> int:
        """Optimizer steps behind these weights."""
        return self.marker.step

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def adapter(self) -> Path:
        """The PEFT directory that can be published."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The whole model, where its own weights were trained and no checkpoint is better."""
        return self.path / "model"

    @property
    def extraction_file(self) -> Path:
        return self.path / "extraction.json"

    def extraction(self) -> dict[str, Any] | None:
        """Return the report on the adapter that was extracted from a trained model; None: the adapter was trained."""
        try:
            report: dict[str, Any] = json.loads(self.extraction_file.read_bytes())
        except FileNotFoundError:
            return None
        return report

    @property
    def state(self) -> Path:
        """The training state; deleted once a newer checkpoint has its own."""
        return self.path / "state"


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a finished run ended."""

    best_checkpoint: str
    """Name of the checkpoint with the lowest validation loss; without validation, of the last."""
    last_checkpoint: str
    steps: int
    trained_tokens: int
    """Tokens that went through the model in training, prompts included, padding not."""
    seconds: float
    """Seconds of training over all starts, from each start's first step."""
    peak_memory_bytes: int
    """Of the GPU, or of the process where there is none."""
    renderer_sha256: str
    """Of the chat template and tokenizer that made the token ids."""
    hyperparameters: Mapping[str, Any]
    """With every "auto" resolved."""
    metrics: Mapping[str, Any]
    """Of the best checkpoint."""
    curves: Mapping[str, Sequence[tuple[int, float]]]
    """Of each metric the (step, value) pairs, at most 200, evenly thinned; the first and the last are among them."""
    distillation: Mapping[str, Any] | None = None
    """Of a distillation: how well the best checkpoint agrees with the teacher, and the tokens that it saves."""


class RunDirectory:
    """Reads and writes the files above: one writing child at a time, any number of readers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events_file = path / "events.jsonl"
        self.checkpoints_folder = path / "checkpoints"
        self.scratch = path / "scratch"
        self.warm_start = path / "warm_start"
        self.token_rows = path / "token_rows"

    def write_spec(self, spec: RunSpec) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.write("spec.json", spec.model_dump(mode="json"))

    def spec(self) -> RunSpec:
        """Return the run's spec.

        Raises:
            OSError: there is no spec.
            ValueError: it is not a spec.
        """
        return RunSpec.from_json(self._read("spec.json"))

    def write_bytes(self, name: str, value: bytes) -> None:
        """Write a file so that a reader sees all of it or none."""
        staged = self.path / f".{name}.{os.getpid()}"
        with staged.open("wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(self.path / name)
        fsync_directory(self.path)

    def append(self, event: RunEvent) -> None:
        """Append an event; it survives the process, but not a power cut, when this returns."""
        line = json.dumps(asdict(event)).encode() + b"\n"
        with self.events_file.open("ab", buffering=0) as file:
            file.write(line)

    def events_since(self, position: int) -> tuple[list[RunEvent], int]:
        """Return the events after byte ``position``, and the position after them; a half-written line is left out.

        A position stays valid, across a power cut too: returned events are on the disk. Costs one ``stat`` when nothing
        is new.
        """
        try:
            if self.events_file.stat().st_size <= position:
                return [], position
        except FileNotFoundError:
            return [], position
        with self.events_file.open("rb") as file:
            os.fsync(file.fileno())
            file.seek(position)
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        return [RunEvent(**json.loads(line)) for line in whole.splitlines()], position + len(whole)

    def events(self) -> list[RunEvent]:
        return self.events_since(0)[0]

    def mend_events(self) -> None:
        """Remove the half-written line that a killed child may have left at the end."""
        if self.events_file.exists():
            raw = self.events_file.read_bytes()
            os.truncate(self.events_file, raw.rfind(b"\n") + 1)

    def checkpoints(self) -> list[RunCheckpoint]:
        """Return the complete checkpoints, the oldest first."""
        found = [_read_checkpoint(marker.parent) for marker in self.checkpoints_folder.glob(f"{_STEP}*/{COMPLETE}")]
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def checkpoint(self, step: int) -> RunCheckpoint:
        """Return the checkpoint of ``step``.

        Raises:
            CheckpointNotFound: there is none, or it is not complete.
        """
        try:
            return _read_checkpoint(self.checkpoint_path(step))
        except FileNotFoundError:
            steps = ", ".join(str(checkpoint.step) for checkpoint in self.checkpoints()) or "none yet"
            raise CheckpointNotFound(f"step {step} has no complete checkpoint; these have: {steps}") from None

    def best_checkpoint(self) -> RunCheckpoint:
        """Return the checkpoint that the result names.

        Raises:
            CheckpointNotFound: the run has no result yet, or lost the checkpoint.
        """
        result = self.result()
        if result is None:
            raise CheckpointNotFound(f"run '{self.path.name}' has no result yet; wait until its job has trained")
        return self.checkpoint(int(result.best_checkpoint.removeprefix(_STEP)))

    def whole_model(self) -> Path:
        """Return the directory of the model that was trained whole, of the best checkpoint.

        Raises:
            CheckpointNotFound: the run has no result yet, trained an adapter alone, or its directory is gone.
        """
        if not self.path.is_dir():
            raise CheckpointNotFound(f"run '{self.path.name}' is gone: --keep-runs-s says for how long runs are kept")
        model = self.best_checkpoint().model
        if not model.is_dir():
            raise CheckpointNotFound(f"run '{self.path.name}' trained an adapter alone: method full has a whole model")
        return model

    def checkpoint_path(self, step: int) -> Path:
        """Return the directory of the checkpoint of ``step``, which exists once it is complete."""
        return self.checkpoints_folder / f"{_STEP}{step}"

    def policy_path(self, step: int) -> Path:
        """Return the directory of the adapter with which the server draws the answers of ``step``."""
        return self.scratch / "policy" / str(step)

    def write_rendering(self, report: Mapping[str, Any]) -> None:
        self.write("rendering.json", report)

    @property
    def is_rendered(self) -> bool:
        """Whether the files were rendered, or found to have faults."""
        return (self.path / "rendering.json").exists()

    def rendering(self) -> dict[str, Any]:
        """Return the rendering's report.

        Raises:
            OSError: there was none.
        """
        report: dict[str, Any] = self._read("rendering.json")
        return report

    def take_token_rows(self, other: Self) -> None:
        """Move the rendered rows of ``other`` here, with their report."""
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.token_rows, ignore_errors=True)
        other.token_rows.replace(self.token_rows)
        self.write_rendering(other.rendering())

    def discard_training(self) -> None:
        """Delete what only a training process reads: rows, optimizer states, copies of other versions."""
        states = self.checkpoints_folder.glob(f"{_STEP}*/state")
        for directory in (self.token_rows, self.scratch, self.warm_start, *states):
            shutil.rmtree(directory, ignore_errors=True)

    def write_preflight(self, report: Mapping[str, Any]) -> None:
        self.write("check.json", report)

    def preflight(self) -> dict[str, Any]:
        """Return the preflight's report.

        Raises:
            OSError: there was none.
        """
        report: dict[str, Any] = self._read("check.json")
        return report

    def write_integrations(self, integrations: Sequence[Mapping[str, Any]]) -> None:
        """Write OpenAI's ``integrations``: where the metrics go too. They have no effect on the weights."""
        self.write("integrations.json", {"integrations": list(integrations)})

    def integrations(self) -> Sequence[Mapping[str, Any]]:
        try:
            return tuple(self._read("integrations.json")["integrations"])
        except FileNotFoundError:
            return ()

    def write_result(self, result: RunResult) -> None:
        """Write the result; after this only the result files are written."""
        self.write("result.json", asdict(result))

    def result(self) -> RunResult | None:
        """Return the result; None while the run has none."""
        try:
            return RunResult(**self._read("result.json"))
        except FileNotFoundError:
            return None

    def _read(self, name: str) -> Any:
        return json.loads((self.path / name).read_bytes())

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file so that a reader sees all of it or none."""
        self.write_bytes(name, json.dumps(value, allow_nan=False).encode())


def _read_checkpoint(path: Path) -> RunCheckpoint:
    return RunCheckpoint(path, Marker(**json.loads((path / COMPLETE).read_bytes())))
