"""The policy in training, in the place of the engine that TRL's trainers know: the server draws its answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Final

from datasets import Dataset
from transformers import Trainer
from trl.trainer.utils import RepeatSampler

from trainer.endings import SamplingRefused
from trainer.methods import base_model
from trainer.methods.checkpoints import export
from trainer.methods.hyperparameters import DrawnHyperparameters
from trainer.methods.policy_client import Draw
from trainer.policy_sampling import PolicyAnswer, PolicyPrompt, PolicyRequest
from trainer.run_directory import SAMPLES_FILE, RunDirectory
from trainer.run_spec import RunSpec

KEPT_PROMPTS: Final = 2
"""Prompts of each step whose answers are kept in the file of samples."""
_ADAPTER: Final = "default"
"""PEFT's name of the trained adapter."""


class ServedPolicy:
    """Draws answers with the adapter in training on the server; has the interface of TRL's ``VLLMGeneration``.

    Args:
        run: the run, whose directory the server reads the adapter from.
        spec: the run's options.
        numbers: the run's numbers.
        training: the prompts that are trained on, with columns ``prompt_ids`` and ``item``.
        validation: those that are not; None: there are none.
        draw: draws answers on the server.
    """

    TRAINING: Final = "training"
    VALIDATION: Final = "validation"

    def __init__(
        self,
        run: RunDirectory,
        spec: RunSpec,
        numbers: DrawnHyperparameters,
        training: Dataset,
        validation: Dataset | None,
        draw: Draw,
    ) -> None:
        self._run = run
        self._spec = spec
        self._numbers = numbers
        self._rows = {self.TRAINING: training, self.VALIDATION: validation}
        self._draw = draw
        self._trainer: Any = None
        self._asked: list[PolicyPrompt] = []
        self._drawn: list[PolicyAnswer] = []

    def attach(self, trainer: Trainer) -> None:
        """Serve ``trainer``, whose steps are those of the policy."""
        self._trainer = trainer

    @property
    def _step(self) -> int:
        step: int = self._trainer.state.global_step
        return step

    def read(self, names: Sequence[str]) -> list[list[int]]:
        """Return the token ids of the prompts that the data sets of ``prompts`` name."""
        self._asked = [self._prompt(name) for name in names]
        return [prompt.ids for prompt in self._asked]

    def _prompt(self, name: str) -> PolicyPrompt:
        file, number = json.loads(name)
        rows = self._rows[file]
        assert rows is not None, "only given data sets name prompts"
        row = rows[number]
        return PolicyPrompt(ids=row["prompt_ids"], item=json.loads(row["item"]))

    def sync_weights(self) -> None:
        """Export the adapter as it is now; those of earlier steps are deleted."""
        target = self._run.policy_path(self._step)
        shutil.rmtree(target.parent, ignore_errors=True)
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        saved = target.with_name(f".{target.name}")
        model.save_pretrained(saved, selected_adapters=[_ADAPTER])
        export(saved, target, self._step, self._spec, base_model.linear_modules(model))

    def generate(
        self, prompts: Sequence[Sequence[int]], images: None, num_generations: int, profiler: object
    ) -> tuple[None, list[list[int]], list[list[list[float]]], None]:
        """Return the token ids of an answer to each of ``prompts`` and their log-probabilities, each in a list of one.

        Equal prompts follow one another, ``num_generations`` of each.

        Raises:
            SamplingRefused: the server draws none, or none has a reward.
        """
        is_training = self._trainer.model.training
        request = PolicyRequest(
            step=self._step,
            prompts=self._asked[::num_generations],
            samples=num_generations,
            max_tokens=self._numbers.max_completion_tokens,
            seed=(self._spec.seed * 1_000_003 + 2 * self._step + (not is_training)) % 2**63,
        )
        groups = self._draw(request).answers
        self._drawn = [answer for group in groups for answer in group]
        if is_training and not self._spec.is_dry:
            self._keep(request.prompts, groups)
        if all(answer.reward is None for answer in self._drawn):
            error = next((answer.error for answer in self._drawn if answer.error), "no reason was given")
            raise SamplingRefused(f"no answer of step {self._step} has a score: {error}")
        return None, [each.ids for each in self._drawn], [[[p] for p in each.logprobs] for each in self._drawn], None

    def batch_decode(self, ids: Sequence[Sequence[int]], *, skip_special_tokens: bool) -> list[str]:
        """Return the texts of the answers that were drawn last, whose token ids TRL asks for."""
        return [answer.text for answer in self._drawn]

    def rewards(self, **_: object) -> list[float | None]:
        """Return the rewards of the answers that were drawn last, as a reward function of TRL's does."""
        graded = [answer.reward is not None for answer in self._drawn]
        mode = "train" if self._trainer.model.training else "eval"
        self._trainer._metrics[mode]["graded"].append(sum(graded) / len(graded))
        return [answer.reward for answer in self._drawn]

    def _keep(self, prompts: Sequence[PolicyPrompt], groups: Sequence[Sequence[PolicyAnswer]]) -> None:
        """Append samples to the file of samples; those of steps that an earlier attempt repeated go first."""
        path = self._run.path / SAMPLES_FILE
        kept = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        while kept and (not kept[-1].endswith(b"\n") or json.loads(kept[-1])["step"] >= self._step):
            kept.pop()
        lines = [
            json.dumps({"step": self._step, "item": prompt.item, "answers": [_shown(answer) for answer in group]})
            for prompt, group in zip(prompts[:KEPT_PROMPTS], groups, strict=False)
        ]
        self._run.write_bytes(SAMPLES_FILE, b"".join(kept) + "".join(f"{line}\n" for line in lines).encode())


def _shown(answer: PolicyAnswer) -> Mapping[str, Any]:
    return {"text": answer.text, "reward": answer.reward, **({"error": answer.error} if answer.error else {})}


def prompts(rows: Dataset, file: str) -> Dataset:
    """Return a data set of names of ``rows``, which ``ServedPolicy.read`` looks up: TRL would render texts itself."""
    return Dataset.from_dict({"prompt": [json.dumps([file, number]) for number in range(len(rows))]})


class _EpochSampler(RepeatSampler):  # type: ignore[misc]  # no types
    """Repeats prompts in an order that seed and epoch decide: TRL's own begins with that of the first at each start."""

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


def on_server(trainer: type[Trainer], policy: ServedPolicy) -> type[Trainer]:
    """Return a subclass of TRL's ``trainer`` whose answers ``policy`` draws: as with vLLM, but over another way."""

    class OnServer(trainer):  # type: ignore[misc]  # no types
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, reward_funcs=policy.rewards, **options)
            self.use_vllm, self.vllm_generation, self._last_loaded_step = True, policy, -1
            policy.attach(self)

        def _get_train_sampler(self, dataset: Dataset | None = None) -> _EpochSampler:
            made = super()._get_train_sampler(dataset)
            repeats = made.mini_repeat_count, made.batch_size, made.repeat_count
            return _EpochSampler(made.data_source, *repeats, seed=made.seed)

        def _generate(self, prompts: list[str]) -> Any:
            self.processing_class: Any = policy  # a session takes the tokenizer away, or checkpoints would have it
            try:
                return super()._generate(prompts)
            finally:
                self.processing_class = None

        def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return policy.read(prompts), None, {}

    return OnServer
