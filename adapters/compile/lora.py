"""The LoRA family, straight from its tensors: plain, rsLoRA, patterns, and initialisations that change the base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adapters.base_model import BaseModel
from adapters.compile.source import CompileSource
from adapters.compile.weights import BaseWeights
from adapters.errors import AdapterRefused, Fault
from adapters.lora.config_fields import shown
from adapters.lora.initial_adapter import LOFTQ, base_changing_init
from adapters.lora.lora_tensors import LoraTensors
from adapters.lora.peft_config import PeftConfig
from adapters.lora.stored_lora import LinearSum, StoredLora
from adapters.storage.manifest import CONFIG_FILE, INITIAL

MAGNITUDE = "lora_magnitude_vector"

_JUDGED_HERE = frozenset(f"{CONFIG_FILE}: {field}" for field in ("use_dora", "init_lora_weights", "modules_to_save"))


class UploadedLora(StoredLora):
    """A LoRA that was read and checked: its pairs of factors, of a DoRA without the magnitudes."""

    @classmethod
    def of(cls, source: CompileSource, base: BaseModel) -> UploadedLora:
        """Check config and tensors as at publication, but allow DoRA and initialisations that change the base.

        Raises:
            AdapterRefused: with every fault found.
        """
        config, invalid = PeftConfig.read(source.config_bytes)
        faults = [*invalid, *(fault for fault in config.unservable() if fault.where not in _JUDGED_HERE)]
        if not isinstance(config.use_dora, bool | None):
            faults.append(Fault(f"{CONFIG_FILE}: use_dora", shown(config.use_dora), "true or false"))
        faults.extend(_init_faults(config))
        if invalid:
            raise AdapterRefused(faults)
        names_in_file = source.normalized.names_in_file
        config = config.settled({*base.modules, *names_in_file.values()})
        header = source.without(MAGNITUDE) if config.use_dora else source.header
        faults.extend(LoraTensors.of(header).faults(base, config, names_in_file))
        if not faults:
            faults.extend(source.normalized.pattern_faults(config))
        if faults:
            raise AdapterRefused(faults)
        return cls(source.weights.path, config, header)

    @property
    def init(self) -> str | None:
        """The initialisation that takes part of the base model's weights out; None: it has none."""
        return base_changing_init(self.config.init_lora_weights)

    @property
    def kind(self) -> str:
        """``lora``, ``rslora``, ``dora``, or the name of an initialisation that changes the base."""
        if self.config.use_dora:
            return "dora"
        return self.init or ("rslora" if self.config.use_rslora else "lora")

    def trained_change(self, directory: Path, base: BaseWeights) -> LinearSum:
        """Return the trained change: the adapter, minus the initial one where its kind has one. Not for LoftQ.

        Raises:
            AdapterRefused: the initial adapter is needed and missing, or belongs to another adapter.
        """
        terms = [(self, 1.0)]
        if self.init is not None:
            terms.append((self.initial(directory, base), -1.0))
        return LinearSum(terms)

    def initial(self, directory: Path, base: BaseWeights) -> UploadedLora:
        """Return the initial adapter, in ``directory``/initial, which has the same modules and ranks.

        Raises:
            AdapterRefused: there is none, or it belongs to another adapter.
        """
        if not (directory / INITIAL).is_dir():
            raise AdapterRefused([_no_initial(self)])
        initial = UploadedLora.of(CompileSource.read(directory / INITIAL, base), base.model)
        # PEFT's examples have the initial adapter say that it is plain, so that it can be loaded as it is
        if initial.init not in {None, self.init} or initial.shapes != self.shapes:
            needed = "the adapter that this one was trained from: the same initialisation, modules and ranks"
            raise AdapterRefused([Fault(INITIAL, "another adapter", needed)])
        return initial


def _init_faults(config: PeftConfig) -> Iterator[Fault]:
    where = f"{CONFIG_FILE}: init_lora_weights"
    if base_changing_init(config.init_lora_weights) is None:
        yield from (fault for fault in config.unservable() if fault.where == where)
    elif config.use_dora:
        needed = "DoRA or an initialisation that changes the base model, not both"
        yield Fault(where, shown(config.init_lora_weights), needed)


def _no_initial(lora: UploadedLora) -> Fault:
    # PEFT converts the other initialisations, and not LoftQ: what the quantisation lost would be left out
    otherwise = (
        "plain LoRA that was trained with init_lora_weights=true, on a quantised base too (QLoRA)"
        if lora.init == LOFTQ
        else "plain LoRA from save_pretrained(..., path_initial_model_for_weight_conversion=<the initial adapter>)"
    )
    return Fault(
        f"{CONFIG_FILE}: init_lora_weights",
        f"{shown(lora.config.init_lora_weights)}, which changes the base model, and no {INITIAL}/ beside the files",
        f"the initial adapter's two files in {INITIAL}/ (save_pretrained before training), or {otherwise}",
    )
