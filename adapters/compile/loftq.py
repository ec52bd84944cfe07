"""LoftQ: a LoRA that was trained on a quantised copy of the base, and starts as the best LoRA for the quantiser's loss.

Li et al. 2023, "LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models", arXiv 2310.08659, as PEFT has it
in ``peft.utils.loftq_utils.loftq_init``. The copy Q is in no file, but follows from the base W and two numbers in the
config; that the initial adapter is the best one for W - Q proves that it is the right copy.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import bitsandbytes.functional as bnb
import torch
from torch import Tensor

from adapters.base_model import EMBEDDING
from adapters.compile.lora import UploadedLora
from adapters.compile.weights import BaseWeights
from adapters.errors import AdapterRefused, Fault
from adapters.lora.config_fields import shown
from adapters.lora.factors import Factors
from adapters.lora.peft_config import PeftConfig
from adapters.lora.stored_lora import LinearSum
from adapters.storage.manifest import CONFIG_FILE, INITIAL

NF4, INT8 = 4, 8
MAX_ITERATIONS = 10
"""Each decomposes every weight once more; the paper takes five, PEFT one."""
TOLERANCE = 0.05
"""× the initial adapter. In bfloat16 it misses by 0.002; a wrong base, block, kind or iteration, by 0.2 and more."""
_BLOCK = 64


@dataclass(frozen=True, slots=True)
class LoftqRecipe:
    """How the quantised copy was made: ``bits`` per weight, and the number of ``iterations``."""

    bits: int
    iterations: int

    @classmethod
    def of(cls, config: PeftConfig) -> Self:
        """Read ``loftq_config``, with PEFT's defaults.

        Raises:
            AdapterRefused: values that PEFT does not implement, or more than ``MAX_ITERATIONS``.
        """
        fields = config.loftq_config or {}
        bits, iterations = fields.get("loftq_bits", NF4), fields.get("loftq_iter", 1)
        faults = []
        if type(bits) is not int or bits not in {NF4, INT8}:  # not isinstance: True is an int to Python
            needed = f"{NF4} or {INT8}: PEFT's LoftQ has no other quantisations"
            faults.append(Fault(f"{CONFIG_FILE}: loftq_config.loftq_bits", shown(bits), needed))
        if type(iterations) is not int or not 1 <= iterations <= MAX_ITERATIONS:
            needed = f"a whole number from 1 to {MAX_ITERATIONS}"
            faults.append(Fault(f"{CONFIG_FILE}: loftq_config.loftq_iter", shown(iterations), needed))
        if faults:
            raise AdapterRefused(faults)
        return cls(bits, iterations)

    def copy_of(self, weight: Tensor, rank: int) -> Tensor:
        """Return the quantised copy of ``weight``, made for a LoRA of ``rank``; both in float32."""
        copy = self._quantised(weight)
        for _ in range(self.iterations - 1):
            copy = self._quantised(weight - _best(weight - copy, rank))
        return copy

    def _quantised(self, weight: Tensor) -> Tensor:
        if self.bits == NF4:
            stored, state = bnb.quantize_4bit(weight, blocksize=_BLOCK, compress_statistics=False, quant_type="nf4")
            made: Tensor = bnb.dequantize_4bit(stored, state)
        else:
            rows, largest, _ = bnb.int8_vectorwise_quant(weight.half())  # bitsandbytes' Int8Params goes by float16 too
            made = bnb.int8_vectorwise_dequant(rows, largest)
        return made


def changes(last: UploadedLora, initial: UploadedLora, base: BaseWeights) -> Iterator[tuple[str, Tensor]]:
    """Yield each module and what was trained less the base's weight: [out_features, in_features], float64.

    Raises:
        AdapterRefused: a config that PEFT does not implement, or ``initial`` does not belong to a copy of this base.
    """
    recipe = LoftqRecipe.of(last.config)
    trained = LinearSum([(last, 1.0)])
    for module in last.shapes:
        if module.rpartition(".")[2] == EMBEDDING:
            raise AdapterRefused([Fault(CONFIG_FILE, f"LoftQ on {module}", "LoftQ on linear layers alone")])
        weight = base.read(f"{module}.weight").float()
        start = initial.read(module)
        copy = recipe.copy_of(weight, start.rank)
        if not _is_start(start, weight - copy):
            raise AdapterRefused([_other_copy(module, base, recipe)])
        b, a = _tensors(trained.read(module))
        yield module, copy.double() - weight.double() + b @ a


def _is_start(start: Factors, lost: Tensor) -> bool:
    """Whether b·a is made of singular vectors of ``lost`` with their values, which random numbers never are.

    The difference to ``lost``'s own best b·a would say less: its singular values lie so close together that the last
    vectors of a cut differ from one machine to the next.
    """
    lost, (b, a) = lost.double(), _tensors(start)
    left, right = torch.linalg.qr(b).Q, torch.linalg.qr(a.T).Q
    limit = TOLERANCE * math.sqrt(start.squared_norm)
    missed_left = torch.linalg.norm((left.T @ b) @ a - left.T @ lost)
    missed_right = torch.linalg.norm(b @ (a @ right) - lost @ right)
    return float(missed_left) <= limit and float(missed_right) <= limit


def _tensors(factors: Factors) -> tuple[Tensor, Tensor]:
    """Return b and a in float64."""
    return torch.from_numpy(factors.b).double(), torch.from_numpy(factors.a).double()


def _best(lost: Tensor, rank: int) -> Tensor:
    # in float32 and in these steps, as PEFT: the next copy is made of it
    left, values, right = torch.linalg.svd(lost, full_matrices=False)
    root = values[:rank].sqrt()
    return (left[:, :rank] * root) @ (root[:, None] * right[:rank])


def _other_copy(module: str, base: BaseWeights, recipe: LoftqRecipe) -> Fault:
    return Fault(
        f"{INITIAL}: {module}",
        f"an initial adapter that does not make up for what {base.model.name} loses in {recipe.bits} bits by LoftQ "
        f"(loftq_iter={recipe.iterations}): another base model or another quantiser",
        "the adapter as get_peft_model made it on this base model in the precision that it is stored in, saved before "
        "training, and the loftq_config that it was made with",
    )
