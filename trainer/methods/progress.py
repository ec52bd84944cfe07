"""Callback of the Trainer's loop: events for the job, checkpoints, and when to stop."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from threading import Event as Flag
from typing import Any, Final

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.endings import NotFinite
from trainer.methods import peers
from trainer.methods.checkpoints import Export, complete
from trainer.methods.extraction import extraction_event
from trainer.methods.hyperparameters import Hyperparameters
from trainer.run_directory import Marker, RunCheckpoint, RunDirectory, RunEvent
from trainer.run_spec import RunSpec

_NAMES: Final[Mapping[str, str]] = {
    "loss": "train_loss",
    "mean_token_accuracy": "train_mean_token_accuracy",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "epoch": "epoch",
    "rewards/accuracies": "train_preference_accuracy",
    "rewards/margins": "train_reward_margin",
    "accuracy": "train_preference_accuracy",
    "margin": "train_reward_margin",
    "reward": "train_mean_reward",
    "reward_std": "train_reward_deviation",
    "completions/mean_length": "mean_completion_tokens",
    "completions/clipped_ratio": "truncated_share",
    "frac_reward_zero_std": "equal_rewards_share",
    "graded": "graded_share",
    "kl": "divergence",
    "sampling/sampling_logp_difference/mean": "sampling_difference",
    "eval_loss": "full_valid_loss",
    "eval_accuracy": "valid_preference_accuracy",
    "eval_margin": "valid_reward_margin",
    "eval_reward": "full_valid_mean_reward",
    "eval_mean_token_accuracy": "full_valid_mean_token_accuracy",
    "eval_rewards/accuracies": "valid_preference_accuracy",
    "eval_rewards/margins": "valid_reward_margin",
}
"""The Trainer's names of metrics, and ours (OpenAI's where it has one)."""
_LOSSES: Final[Mapping[str, str]] = {"train_loss": "training loss", "full_valid_loss": "validation loss"}
_REWARDS: Final[Mapping[str, str]] = {"train_mean_reward": "reward", "full_valid_mean_reward": "validation reward"}
"""Shown instead of the loss where the method has one: its loss is near 0, whatever it learns."""
_FINITE: Final[Mapping[str, str]] = {
    "loss": "the loss",
    "grad_norm": "the gradient's norm",
    "eval_loss": "the validation loss",
}


class Reporter:
    """Appends events, each once: a run that goes on after a crash repeats some steps, with the same numbers.

    Of the processes that share a run, only the first appends events.
    """

    def __init__(self, run: RunDirectory) -> None:
        if peers.is_first():
            run.mend_events()
        reported = run.events()
        self._run = run
        self._listeners: list[Callable[[RunEvent], None]] = []
        self._is_new = all("n_epochs" not in earlier.data for earlier in reported)
        self._reported = {metric: _last_step(reported, metric) for metric in _LOSSES}
        self._saved = {earlier.data["checkpoint"] for earlier in reported if "checkpoint" in earlier.data}
        self._extracted = {earlier.data["step"] for earlier in reported if "extraction" in earlier.data}
        for checkpoint in run.checkpoints():  # killed between a checkpoint and its event
            self.saved(checkpoint)

    def report(self, event: RunEvent) -> None:
        """Append an event and pass it to the listeners."""
        if peers.is_first():
            self._run.append(event)
            for listener in self._listeners:
                listener(event)

    def add_listener(self, listener: Callable[[RunEvent], None]) -> None:
        """Call ``listener`` with every event, those of earlier starts first."""
        for event in self._run.events():
            listener(event)
        self._listeners.append(listener)

    def started(self, data_set: str, numbers: Hyperparameters) -> None:
        """Report the data set and the numbers, on the run's first start."""
        if self._is_new:
            self.report(RunEvent(message=f"Training on {data_set}, {numbers.steps} steps", data=asdict(numbers)))

    def measured(self, metric: str, data: Mapping[str, Any]) -> None:
        """Report the metrics of a training step or of a validation, whose loss is ``metric``."""
        if (step := data["step"]) > self._reported[metric]:
            shown = next((name for name in _REWARDS if name in data), metric)
            message = f"Step {step}/{data['total_steps']}: {_REWARDS.get(shown) or _LOSSES[shown]}={data[shown]:.4f}"
            self.report(RunEvent(type="metrics", message=message, data=data))
            self._reported[metric] = step

    def saved(self, checkpoint: RunCheckpoint) -> None:
        if checkpoint.name not in self._saved:
            if (extraction := checkpoint.extraction()) is not None and checkpoint.step not in self._extracted:
                self.report(extraction_event(checkpoint.step, extraction))
                self._extracted.add(checkpoint.step)
            data = {"step": checkpoint.step, "checkpoint": checkpoint.name, "metrics": checkpoint.marker.metrics}
            self.report(RunEvent(message=f"Checkpoint saved at step {checkpoint.step}", data=data))
            self._saved.add(checkpoint.name)


def _last_step(events: Iterable[RunEvent], metric: str) -> int:
    return max((earlier.data["step"] for earlier in events if metric in earlier.data), default=0)


class Progress(TrainerCallback):  # type: ignore[misc]  # no types
    """Decides when to validate, when to save and when to stop."""

    def __init__(
        self,
        run: RunDirectory,
        spec: RunSpec,
        numbers: Hyperparameters,
        reporter: Reporter,
        stop: Flag,
        *,
        is_validated: bool,
        export: Export,
    ) -> None:
        self._run = run
        self._spec = spec
        self._numbers = numbers
        self._reporter = reporter
        self._stop = stop
        self._export = export
        self._is_validated = is_validated
        before = run.checkpoints()
        self._seconds_before = before[-1].marker.seconds if before else 0.0
        self._began = self._last_step = time.monotonic()
        self._tokens = 0
        self._first_step = 0
        self._last = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._began = self._last_step = time.monotonic()
        self._first_step, self._tokens = state.global_step, int(state.num_input_tokens_seen)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._last = args.save_only_model = state.global_step >= state.max_steps
        stops = peers.agreed(self._stop.is_set())
        is_due = self._last or state.global_step % self._numbers.validation_steps == 0
        control.should_evaluate = self._is_validated and is_due
        control.should_save = self._last or stops or state.global_step % self._numbers.checkpoint_steps == 0
        control.should_training_stop = self._last or stops

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Report a step or a validation; end the run at the first number that is not finite.

        Raises:
            NotFinite: before anything of this step is saved.
        """
        logs = logs or {}
        for name, label in _FINITE.items():
            if name in logs and not math.isfinite(logs[name]):
                raise NotFinite(label, state.global_step)
        data = {"step": state.global_step, "total_steps": state.max_steps} | _named(logs)
        if "loss" in logs:
            self._reporter.measured("train_loss", data | self._pace(state))
        elif "eval_loss" in logs:
            self._reporter.measured("full_valid_loss", data | {"valid_loss": data["full_valid_loss"]})

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop when no validation was better for ``patience`` of them."""
        metric = self._spec.method.traits.judged_by
        sign = -1 if self._spec.method.draws else 1  # a reward is best at its largest
        values = [sign * named[metric] for entry in state.log_history if metric in (named := _named(entry))]
        patience, step = self._spec.patience, state.global_step
        if patience is not None and len(values) - 1 - values.index(min(values)) >= patience:
            self._last = args.save_only_model = control.should_training_stop = True
            message = f"Stopping early at step {step}: {patience} checkpoints without a better validation"
            self._reporter.report(RunEvent(message=message, data={"step": step}))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any, **_: Any
    ) -> None:
        """Make a checkpoint of what the Trainer saved, once every process has written its part."""
        peers.wait()
        if not peers.is_first():
            return
        step = state.global_step
        at_step = [entry for entry in state.log_history if entry["step"] == step]
        marker = Marker(
            step=step,
            metrics={"step": step} | {name: number for entry in at_step for name, number in _named(entry).items()},
            trained_tokens=int(state.num_input_tokens_seen),
            seconds=self._seconds_before + time.monotonic() - self._began,
            last=self._last,
        )
        saved = Path(args.output_dir) / f"checkpoint-{step}"
        self._reporter.saved(complete(self._run, saved, marker, self._spec, model, self._export))

    def _pace(self, state: TrainerState) -> dict[str, float]:
        now, tokens = time.monotonic(), int(state.num_input_tokens_seen)
        took = max(now - self._last_step, 1e-9)
        a_step = (now - self._began) / (state.global_step - self._first_step)
        pace = {
            "tokens_per_second": round((tokens - self._tokens) / took, 1),
            "eta_s": round(a_step * (state.max_steps - state.global_step), 1),
        }
        self._last_step, self._tokens = now, tokens
        return pace


def _named(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite metrics by our names: a mean over nothing is not finite."""
    found = {ours: float(logs[theirs]) for theirs, ours in _NAMES.items() if theirs in logs}
    return {name: value for name, value in found.items() if math.isfinite(value)}
