"""The LoRA family, straight from its tensors: plain, rsLoRA, patterns, and changed starts less their first adapter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adapters.base_model import BaseModel
from adapters.compile.base_weights import BaseWeights
from adapters.compile.factors import Factors
from adapters.compile.source import CompileSource
from adapters.errors import AdapterRefused, Fault
from adapters.lora.first_adapter import LOFTQ, start_of
from adapters.lora.lora_tensors import LoraTensors, Pair
from adapters.lora.peft_config import PeftConfig, shown
from adapters.storage.manifest import CONFIG_FILE, INITIAL

MAGNITUDE = "lora_magnitude_vector"

_JUDGED_HERE = frozenset(f"{CONFIG_FILE}: {field}" for field in ("use_dora", "init_lora_weights", "modules_to_save"))


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA that was read and checked: its config and its tensors by module."""

    source: CompileSource
    config: PeftConfig
    pairs: tuple[Pair, ...]

    @classmethod
    def of(cls, source: CompileSource, base: BaseModel) -> Lora:
        """Check config and tensors as the door does.

        Raises:
            AdapterRefused: with every fault found.
        """
        config = PeftConfig.parse(source.config_bytes)
        faults = [fault for fault in config.unservable() if fault.where not in _JUDGED_HERE]
        if not isinstance(config.use_dora, bool | None):
            faults.append(Fault(f"{CONFIG_FILE}: use_dora", shown(config.use_dora), "true or false"))
        faults.extend(_start_faults(config))
        tensors = LoraTensors.of(source.without(MAGNITUDE) if config.use_dora else source.header)
        faults.extend(tensors.faults(base, config, source.named.spellings))
        if not faults:
            faults.extend(source.named.pattern_faults(config))
        if faults:
            raise AdapterRefused(faults)
        return cls(source, config, tensors.pairs)

    @property
    def kind(self) -> str:
        """``lora``, ``rslora``, ``dora``, or the name of a changed start."""
        if self.config.use_dora:
            return "dora"
        if (start := _start(self.config)) is not None:
            return start
        return "rslora" if self.config.use_rslora else "lora"

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        return max(self.config.rank_of(pair.module) for pair in self.pairs)

    @property
    def is_scaled(self) -> bool:
        """Whether any module's scale is another than 1."""
        return any(self._scale(pair.module) != 1 for pair in self.pairs)

    @property
    def is_loftq(self) -> bool:
        """Whether it was trained on a quantised copy of the base, for which ``learnt`` does not hold."""
        return _start(self.config) == LOFTQ

    def factors(self) -> list[Factors]:
        """Each module's factors in float32, the scale in ``b``."""
        return [self.factors_of(pair) for pair in self.pairs]

    def learnt(self, directory: Path, base: BaseWeights) -> list[Factors]:
        """``factors``; for a changed start less those of the first adapter, which lies in ``directory``/initial.

        Raises:
            AdapterRefused: there is no first adapter where one is needed, or it is another's.
        """
        if _start(self.config) is None:
            return self.factors()
        pairs = zip(self.factors(), self.first(directory, base).factors(), strict=True)
        differences = (after.minus(start) for after, start in pairs)
        return [Factors(made.module, made.b.float(), made.a.float()) for made in differences]

    def first(self, directory: Path, base: BaseWeights) -> Lora:
        """The first adapter, which lies in ``directory``/initial: of the same modules and ranks, in the same order.

        Raises:
            AdapterRefused: there is none, or it is another's.
        """
        if not (directory / INITIAL).is_dir():
            raise AdapterRefused([_no_initial(self.config)])
        first = Lora.of(CompileSource.read(directory / INITIAL, base), base.model)
        # PEFT's examples have the first adapter say that it is plain, so that it can be loaded as it is
        if _start(first.config) not in {None, _start(self.config)} or _shapes(self) != _shapes(first):
            needed = "the adapter that this one was trained from: the same initialisation, modules and ranks"
            raise AdapterRefused([Fault(INITIAL, "another adapter", needed)])
        return first

    def factors_of(self, pair: Pair, *, is_scaled: bool = True) -> Factors:
        """One module's factors in float32, the scale in ``b`` or left out."""
        assert pair.a is not None
        assert pair.b is not None
        a, b = self.source.tensor(pair.a.name).float(), self.source.tensor(pair.b.name).float()
        return Factors(pair.module, b * self._scale(pair.module) if is_scaled else b, a)

    def _scale(self, module: str) -> float:
        rank = self.config.rank_of(module)
        return self.config.alpha_of(module) / (math.sqrt(rank) if self.config.use_rslora else rank)


def _start(config: PeftConfig) -> str | None:
    return start_of(config.init_lora_weights)


def _start_faults(config: PeftConfig) -> Iterator[Fault]:
    where = f"{CONFIG_FILE}: init_lora_weights"
    if _start(config) is None:
        yield from (fault for fault in config.unservable() if fault.where == where)
    elif config.use_dora:
        yield Fault(where, shown(config.init_lora_weights), "one of DoRA and a changed start, not both")


def _no_initial(config: PeftConfig) -> Fault:
    # PEFT converts the other starts, and not LoftQ: what the quantisation lost would be left out
    otherwise = (
        "plain LoRA that was trained with init_lora_weights=true, on a quantised base too (QLoRA)"
        if _start(config) == LOFTQ
        else "plain LoRA from save_pretrained(..., path_initial_model_for_weight_conversion=<the first adapter>)"
    )
    return Fault(
        f"{CONFIG_FILE}: init_lora_weights",
        f"{shown(config.init_lora_weights)}, which changes the base model, and no {INITIAL}/ beside the files",
        f"the first adapter's two files in {INITIAL}/ (save_pretrained before training), or {otherwise}",
    )


def _shapes(lora: Lora) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    sides = ((pair.module, pair.b, pair.a) for pair in lora.pairs)
    return [(module, b.shape, a.shape) for module, b, a in sides if b is not None and a is not None]
