"""Pairs an adapter's tensors by module and checks them against the base model and the config."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adapters.base_model import EMBEDDING, HEAD, BaseModel
from adapters.errors import AdapterRefused, Fault
from adapters.lora.config_fields import shown
from adapters.lora.peft_config import PeftConfig, suffixes
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE
from adapters.storage.number_formats import WEIGHT_DTYPES
from adapters.storage.safetensors_header import Header, Tensor

# The keys that vLLM's parse_fine_tuned_lora_name maps to the right module; the prefix is optional to it.
_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)"
    r"\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<lookup>[AB]))"
)
# With LoRA on an embedding PEFT saves the frozen weight too. vLLM skips exactly these two names.
_EMBEDDING_COPY = re.compile(rf"base_model\.model\.(?P<module>(?:.+\.)?(?:{EMBEDDING}|{HEAD}))\.base_layer\.weight")

_FOREIGN: Mapping[str, str] = {
    "hada_": "LoRA: this is LoHa, convert it with peft.save_as_lora",
    "lokr_": "LoRA: this is LoKr, convert it with peft.save_as_lora",
    "lora_magnitude_vector": "plain LoRA: this is DoRA, have it cut with --compress-to R (compress_to over HTTP)",
    "modules_to_save": "no full copies of modules: train with modules_to_save=None",
    f"{EMBEDDING}.weight": "no copy of the embedding: train without adding tokens to the vocabulary",
    f"{HEAD}.weight": "no copy of the output head: train without adding tokens to the vocabulary",
    "trainable_tokens": "no changed tokens: train without trainable_token_indices",
    ".bias": "no biases: train with bias='none' and lora_bias=False",
}
_LAYER = re.compile(r"\.\d+\.")
_GATHER = (
    "save again; under FSDP or ZeRO-3 gather the weights first (stage3_gather_16bit_weights_on_model_save, or "
    "accelerator.get_state_dict)"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """The factors of one module's LoRA, A [r, in_features] and B [out_features, r]; None where missing."""

    module: str
    a: Tensor | None
    b: Tensor | None


@dataclass(frozen=True, slots=True)
class LoraTensors:
    """The tensors of a file by role."""

    pairs: tuple[Pair, ...]
    embedding_copies: Mapping[str, Tensor]
    """Copies of the base model's embeddings by module; the engine does not read them."""
    twice: tuple[Tensor, ...]
    """Second keys for a factor."""
    unknown: tuple[Tensor, ...]
    """Keys that the engine cannot read."""

    @classmethod
    def of(cls, header: Header) -> LoraTensors:
        """Sort the tensors of ``header`` into roles by their keys."""
        factors: dict[str, dict[str, Tensor]] = {}
        copies: dict[str, Tensor] = {}
        twice, unknown = [], []
        for tensor in header.tensors.values():
            if copy := _EMBEDDING_COPY.fullmatch(tensor.name):
                copies[copy["module"]] = tensor
            elif (key := _KEY.fullmatch(tensor.name)) and _is_form_of(key):
                sides = factors.setdefault(key["module"], {})
                if sides.setdefault(key["linear"] or key["lookup"], tensor) is not tensor:
                    twice.append(tensor)
            else:
                unknown.append(tensor)
        pairs = (Pair(module, sides.get("A"), sides.get("B")) for module, sides in sorted(factors.items()))
        return cls(tuple(pairs), copies, tuple(twice), tuple(unknown))

    @property
    def empty(self) -> list[Tensor]:
        """The tensors without a number, as ZeRO-3 leaves them where the weights were not gathered."""
        factors = (tensor for pair in self.pairs for tensor in (pair.a, pair.b) if tensor is not None)
        others = (*self.embedding_copies.values(), *self.twice, *self.unknown)
        return [tensor for tensor in (*factors, *others) if 0 in tensor.shape]

    def are_inert(self, zero: frozenset[str]) -> bool:
        """Whether B·A is 0 in every module, given the names of the tensors that hold only zeros."""
        return bool(self.pairs) and all(
            any(tensor is not None and tensor.name in zero for tensor in (pair.a, pair.b)) for pair in self.pairs
        )

    def faults(self, base: BaseModel, config: PeftConfig | None, names_in_file: Mapping[str, str]) -> Iterator[Fault]:
        """Yield the faults of these tensors for ``base`` and ``config`` (None: unreadable).

        ``names_in_file``: the modules' names in the file, for which its config was written.
        """
        if not self.pairs and not self.unknown:
            yield Fault(WEIGHTS_FILE, "no LoRA tensors", f"lora_A and lora_B of each module: {_GATHER}")
            return
        if empty := self.empty:
            found = f"{len(empty)} tensors without a number, such as {empty[0].name} of shape {list(empty[0].shape)}"
            yield Fault(WEIGHTS_FILE, found, f"the numbers of every tensor: {_GATHER}")
            return
        for tensor in self.unknown:
            yield Fault(at(tensor), "a key that no engine reads", _key_needed(tensor.name))
        for tensor in self.twice:
            yield Fault(at(tensor), "a second key for the same module and side", "one of them: save again")
        for module, tensor in self.embedding_copies.items():
            yield from _embedding_copy_faults(module, tensor, base)
        for pair in self.pairs:
            yield from _pair_faults(pair, base, config)
        if config is not None:
            yield from _target_faults({pair.module for pair in self.pairs}, base, config, names_in_file)


def _is_form_of(key: re.Match[str]) -> bool:
    """Whether the key's form, linear or lookup, is that of its module."""
    return (key["module"].rpartition(".")[2] == EMBEDDING) == (key["lookup"] is not None)


def at(tensor: Tensor) -> str:
    return f"{WEIGHTS_FILE}: {tensor.name}"


def _key_needed(name: str) -> str:
    for part, needed in _FOREIGN.items():
        if part in name:
            return needed
    return (
        "base_model.model.<module>.lora_A.weight or .lora_B.weight (lora_embedding_A or _B on embed_tokens), "
        "as PeftModel.save_pretrained writes them"
    )


def _embedding_copy_faults(module: str, tensor: Tensor, base: BaseModel) -> Iterator[Fault]:
    if module not in base.modules:
        yield Fault(at(tensor), "a copy of an embedding", _module_needed(module, base))
        return
    shape = base.modules[module]
    expected = shape[::-1] if module.endswith(EMBEDDING) else shape
    if tensor.shape != expected:
        needed = f"{list(expected)}, that of {base.name}: train without adding tokens to the vocabulary"
        yield Fault(at(tensor), f"shape {list(tensor.shape)}", needed)


def _pair_faults(pair: Pair, base: BaseModel, config: PeftConfig | None) -> Iterator[Fault]:
    present = pair.a or pair.b
    assert present is not None
    if pair.module not in base.modules:
        yield Fault(at(present), f"module {pair.module}", _module_needed(pair.module, base))
        return
    if pair.a is None or pair.b is None:
        missing, other = ("lora_A", "lora_B") if pair.a is None else ("lora_B", "lora_A")
        yield Fault(at(present), f"no {missing} beside this {other}", "both factors of every module: save again")
    rank = _rank(pair, config)
    out_features, in_features = base.modules[pair.module]
    if pair.a is not None:
        yield from _factor_faults(pair.a, (rank, in_features), 0, base)
    if pair.b is not None:
        yield from _factor_faults(pair.b, (out_features, rank), 1, base)


def _factor_faults(tensor: Tensor, expected: tuple[int, int], rank_axis: int, base: BaseModel) -> Iterator[Fault]:
    if tensor.dtype not in WEIGHT_DTYPES:
        yield Fault(at(tensor), f"dtype {tensor.dtype}", "F32, F16 or BF16: save the weights unquantised")
    if tensor.shape == expected:
        return
    reasons = []
    if len(tensor.shape) != 2 or tensor.shape[rank_axis] != expected[rank_axis]:
        asked = f"rank {expected[rank_axis]} is what r and rank_pattern in {CONFIG_FILE} say"
        reasons.append(f"{asked}: send the config that belongs to these weights")
    if len(tensor.shape) != 2 or tensor.shape[1 - rank_axis] != expected[1 - rank_axis]:
        reasons.append(f"train on {base.name}, this adapter was made for a model of another size")
    yield Fault(at(tensor), f"shape {list(tensor.shape)}", f"{list(expected)}: {'; '.join(reasons)}")


def _rank(pair: Pair, config: PeftConfig | None) -> int:
    if config is not None:
        return config.rank_of(pair.module)
    if pair.a is not None:
        return next(iter(pair.a.shape), 0)
    assert pair.b is not None
    return next(reversed(pair.b.shape), 0)


def _module_needed(module: str, base: BaseModel) -> str:
    if _LAYER.sub(".0.", module, count=1) in base.modules:
        return f"a layer of {base.name}: train on it, this adapter was made for a deeper model"
    for known in base.modules:
        if known.endswith(f".{module}") or module.endswith(f".{known}"):
            return f"base_model.model.{known}.…: rename the keys, no known tool writes these"
    if module.rpartition(".")[2] in {EMBEDDING, HEAD}:
        tied = f"a linear layer of {base.name}: its embeddings are tied, so they carry no LoRA"
        return f'{tied}; train with target_modules="all-linear"'
    return f"a linear layer of {base.name}, such as {next(iter(base.modules), 'none')}: train on this base model"


def _target_faults(
    adapted: set[str], base: BaseModel, config: PeftConfig, names_in_file: Mapping[str, str]
) -> Iterator[Fault]:
    where = f"{CONFIG_FILE}: target_modules"
    try:
        targeted = config.targeted({*adapted, *base.modules, *names_in_file.values()})
    except AdapterRefused as refused:
        yield from refused.faults
        return
    if ignored := sorted(module for module in adapted if not targeted & {module, names_in_file.get(module, module)}):
        found = f"nothing that names {ignored[0]}, which has tensors (as have {len(ignored) - 1} others like it)"
        yield Fault(where, found, "every module that has tensors: PEFT would ignore these and answer differently")
    if isinstance(config.target_modules, str):
        return
    expected = {name for module in targeted & base.modules.keys() for name in suffixes(module)}
    present = {name for module in adapted for name in suffixes(module)}
    for target in config.target_modules:
        if target in expected and target not in present:
            needed = "tensors for each target: save again, or leave the target out if it was never trained"
            yield Fault(where, f"{shown(target)}, for which {WEIGHTS_FILE} has no tensors", needed)
