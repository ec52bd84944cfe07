"""The numbers that "auto" stands for, from the size of the data and the width of the base.

Sources: "LoRA Without Regret" (Thinking Machines, 2025): all linear layers, a rate ten times that of full fine-tuning
and nearly independent of the rank, batches below 32; the Tinker cookbook's rate, 5e-4 at width 2000, falling with
the width; TRL's guide of the same name; OpenAI's batches, which grow with the data.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from trainer.endings import SpecRefused
from trainer.options import Auto
from trainer.run_spec import RunSpec
from trainer.training_method import TrainingMethod

AIM_STEPS: Final = 200
"""Steps that "auto" aims at; below 100 an adapter seldom learns a format reliably."""
DRAWN_STEPS: Final = 100
"""Steps that "auto" aims at where the server draws the answers: each step has new ones, and takes longer."""
MAX_BATCH: Final = 32
MAX_EPOCHS: Final = 10
STEPS_PER_EPOCH: Final = 25
WARMUP: Final = 0.04
"""Share of the steps in which the rate rises; it falls along half a cosine after that."""
MAX_GRADIENT: Final = 1.0
MOST_CHECKPOINTS: Final = 10
BETA: Final = 0.1
DRAWN_BETA: Final = {"grpo": 0.0, "rloo": 0.05}
"""TRL's own values."""
DRAWN_BATCH: Final = 8
"""Prompts in a step, each with several answers."""
COMPLETION_TOKENS: Final = 256
LEAST_SAMPLES: Final = 2
"""A reward is compared with those of other answers to the same prompt."""
TOKENS_AT_ONCE: Final = 2**14
"""Tokens that the device takes at once; gradients of larger batches are accumulated over several passes."""
PACK_TOKENS: Final = 4096

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """A run's numbers, with every "auto" resolved."""

    n_epochs: int
    batch_size: int
    micro_batch_size: int
    """Rows that a device takes at once; ``batch_size`` is a multiple of it times the run's processes."""
    learning_rate: float
    learning_rate_multiplier: float
    beta: float
    steps: int
    checkpoint_steps: int
    warmup_steps: int

    @property
    def validation_steps(self) -> int:
        """Optimizer steps between two validations."""
        return self.checkpoint_steps


@dataclass(frozen=True, slots=True)
class DrawnHyperparameters(Hyperparameters):
    """The numbers of a run whose answers the server draws; a row is a prompt."""

    compute_multiplier: float
    samples: int
    """Answers to each prompt; ``micro_batch_size`` counts answers."""
    eval_interval: int
    eval_samples: int
    max_completion_tokens: int
    algorithm: str

    @property
    def validation_steps(self) -> int:
        return self.eval_interval


@dataclass(frozen=True, slots=True)
class TaughtHyperparameters(Hyperparameters):
    """The numbers of a run whose answers a teacher gives before the first step; a row is a question and an answer."""

    samples: int
    temperature: float
    max_completion_tokens: int


def resolve(spec: RunSpec, *, rows: int, width: int, longest: int) -> Hyperparameters:
    """Resolve every "auto": ``rows`` sequences of at most ``longest`` tokens, a base of hidden size ``width``.

    A batch that the processes cannot share equally becomes the next larger one that they can.
    """
    if spec.method.draws:
        return _resolve_drawn(spec, rows, width, longest)
    method = spec.method.traits
    wanted = _stated(spec.batch_size, auto_batch(rows))
    share = max(method.least_batch, math.ceil(wanted / spec.processes))
    batch = share * spec.processes
    micro = _micro_batch(share, method.sequences * longest, method.least_batch)
    per_epoch = math.ceil(rows / batch)
    epochs = _stated(spec.n_epochs, auto_epochs(per_epoch))
    steps = per_epoch * epochs
    multiplier = _stated(spec.learning_rate_multiplier, 1.0)
    numbers = Hyperparameters(
        n_epochs=epochs,
        batch_size=batch,
        micro_batch_size=micro,
        learning_rate=base_rate(spec.method, width) * multiplier,
        learning_rate_multiplier=multiplier,
        beta=_stated(spec.beta, BETA),
        steps=steps,
        checkpoint_steps=_stated(spec.checkpoint_steps, max(per_epoch, math.ceil(steps / MOST_CHECKPOINTS))),
        warmup_steps=math.ceil(steps * WARMUP),
    )
    return TaughtHyperparameters(**asdict(numbers), **teaching(spec)) if method.is_taught else numbers


def teaching(spec: RunSpec) -> dict[str, Any]:
    """Return the numbers of a teacher's answers.

    Raises:
        SpecRefused: there is no prompt; or several answers that would all be the same.
    """
    samples = _stated(spec.samples, 1)
    temperature = _stated(spec.temperature, 0.0 if samples == 1 else 1.0)
    faults = []
    if not spec.prompt:
        faults.append("prompt is missing: the messages that the teacher has before each question")
    if samples > 1 and not temperature:
        faults.append(f"samples is {samples} at temperature 0, where all answers are the same: raise it, or draw 1")
    if faults:
        raise SpecRefused("; ".join(faults))
    completion = _stated(spec.max_completion_tokens, COMPLETION_TOKENS)
    return {"samples": samples, "temperature": temperature, "max_completion_tokens": completion}


def _resolve_drawn(spec: RunSpec, rows: int, width: int, longest: int) -> DrawnHyperparameters:
    """Resolve the numbers of a run whose answers are drawn; an epoch leaves out what does not fill a batch."""
    batch = min(rows, _stated(spec.batch_size, DRAWN_BATCH))
    compute = _stated(spec.compute_multiplier, 1.0)
    samples = max(LEAST_SAMPLES, round(spec.method.traits.samples * compute))
    completion = _stated(spec.max_completion_tokens, COMPLETION_TOKENS)
    per_epoch = rows // batch
    epochs = _stated(spec.n_epochs, auto_epochs(per_epoch, DRAWN_STEPS))
    steps = per_epoch * epochs
    multiplier = _stated(spec.learning_rate_multiplier, 1.0)
    checkpoint_steps = _stated(spec.checkpoint_steps, math.ceil(steps / MOST_CHECKPOINTS))
    return DrawnHyperparameters(
        n_epochs=epochs,
        batch_size=batch,
        micro_batch_size=_micro_batch(batch * samples, longest + completion, 1),
        learning_rate=base_rate(spec.method, width) * multiplier,
        learning_rate_multiplier=multiplier,
        beta=_stated(spec.beta, DRAWN_BETA[spec.algorithm]),
        steps=steps,
        checkpoint_steps=checkpoint_steps,
        warmup_steps=math.ceil(steps * WARMUP),
        compute_multiplier=compute,
        samples=samples,
        eval_interval=_stated(spec.eval_interval, checkpoint_steps),
        eval_samples=_stated(spec.eval_samples, 1),
        max_completion_tokens=completion,
        algorithm=spec.algorithm,
    )


def _stated(value: Number | Auto, auto: Number) -> Number:
    return auto if isinstance(value, str) else value


def pack_length(longest: int, limit: int) -> int:
    """Return the tokens in a pack: ``PACK_TOKENS``, more if a row is longer, never more than the base takes."""
    return min(limit, max(longest, PACK_TOKENS))


def auto_batch(rows: int) -> int:
    """Return a power of two that leaves about ``STEPS_PER_EPOCH`` steps in an epoch, at most ``MAX_BATCH``."""
    return min(MAX_BATCH, 1 << max(0, round(math.log2(rows / STEPS_PER_EPOCH))))


def auto_epochs(steps_per_epoch: int, aim_steps: int = AIM_STEPS) -> int:
    """Return as many epochs as reach ``aim_steps``, at most ``MAX_EPOCHS``: more memorize the rows."""
    return min(MAX_EPOCHS, math.ceil(aim_steps / steps_per_epoch))


def base_rate(method: TrainingMethod, width: int) -> float:
    """Return the rate for a base of hidden size ``width``: 1 / width, 2.4e-4 at 4096, 5e-4 at 2000, 3.9e-3 at 256.

    The exponent is muP's (arXiv:2203.03466: Adam's rate falls as 1 / width); Tinker's own fit for Llama, 0.78, agrees
    within a fifth from 2000 to 5000 and gives too little for a base as small as ours.
    """
    return 1 / width * method.traits.rate


def _micro_batch(share: int, longest: int, least: int) -> int:
    """Return the largest divisor of ``share``, a process's part of a batch, from ``least`` up, of which so many longest
    rows fit ``TOKENS_AT_ONCE``."""
    divisors = [size for size in range(least, share + 1) if share % size == 0]
    return max((size for size in divisors if size * longest <= TOKENS_AT_ONCE), default=divisors[0])
