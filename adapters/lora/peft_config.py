"""adapter_config.json as PEFT 0.21 writes it: its meaning, and the fields that the engine cannot serve."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from adapters import strict_json
from adapters.errors import AdapterRefused, Fault
from adapters.lora.config_fields import LORA, config_fault, ignored_fields, parse_fields, shown, unknown_switches
from adapters.lora.initial_adapter import LOFTQ
from adapters.lora.module_pattern import MAX_LENGTH, matching
from adapters.lora.name_patterns import (
    MAX_COSTLY_PATTERNS,
    MAX_PATTERNS,
    is_costly,
    is_simple,
    matches,
    modules_of,
)
from adapters.storage.manifest import CONFIG_FILE, INITIAL

MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 65_536
MAX_ALPHA = 65_536.0
MAX_LIST = 4096
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica"})
"""Initialisations that leave the base model's weights alone, so that what was saved is a plain LoRA."""

ALL_LINEAR = "all-linear"
"""PEFT's short form of target_modules for every linear layer but the output head."""
_EMBEDDINGS = frozenset({"embed_tokens", "lm_head"})

_TASKS = frozenset({None, "CAUSAL_LM", "FEATURE_EXTRACTION"})

_NESTED = frozenset({"arrow_config", "kasa_config", "use_bdlora"})
"""Fields of which PEFT takes an empty object for one that asks for the defaults."""

_STAND_INS: Mapping[str, Any] = {"peft_type": LORA, "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
"""Values for fields without a valid one, so that the faults of the others can be found."""

_PATTERN_FIELDS = ("rank_pattern", "alpha_pattern")


def _check_pattern(pattern: str) -> str:
    if len(pattern) > MAX_LENGTH:
        raise ValueError(f"a pattern of at most {MAX_LENGTH} characters")
    return pattern


def _check_pattern_count(patterns: dict[str, Any]) -> dict[str, Any]:
    if len(patterns) > MAX_PATTERNS or sum(map(is_costly, patterns)) > MAX_COSTLY_PATTERNS:
        costly = f"{MAX_COSTLY_PATTERNS} of them with '*', '+', '?' or groups"
        raise ValueError(f"at most {MAX_PATTERNS} patterns, {costly}")
    return patterns


_Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
_Alpha = Annotated[float, Field(gt=0, le=MAX_ALPHA, allow_inf_nan=False)]
_Pattern = Annotated[str, AfterValidator(_check_pattern)]
_Plain = Annotated[str, Field(pattern="^[A-Za-z0-9_.-]+$")]
_Layers = Annotated[list[int], Field(max_length=MAX_LIST)]
_Parents = Annotated[list[_Plain], Field(max_length=8)]
_Ranks = Annotated[dict[_Pattern, _Rank], AfterValidator(_check_pattern_count)]
_Alphas = Annotated[dict[_Pattern, _Alpha], AfterValidator(_check_pattern_count)]
_Object = dict[str, Any] | None
_Share = Annotated[float, Field(ge=0, le=1)] | None
_Value = TypeVar("_Value")


def _unserved(needed: str) -> Any:
    """Return a field that changes what the adapter computes, and is refused where it has a value."""
    return Field(None, description=needed)


class PeftConfig(BaseModel):
    """Every field of PEFT's LoraConfig. Fields that only steer training are checked for their type alone.

    A description says what a field must hold; it becomes the fault's ``needed``. A config with intricate patterns has
    to be ``settled`` before it gives ranks and alphas.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    _ignored: tuple[str, ...] = PrivateAttr(())
    _matched: dict[str, frozenset[str]] = PrivateAttr(default_factory=dict)
    """Intricate pattern -> the modules that it means."""

    peft_type: str = Field(description='"LORA"')
    r: _Rank = Field(description=f"the rank, a whole number from 1 to {MAX_RANK}")
    lora_alpha: _Alpha = Field(description=f"a number above 0, at most {MAX_ALPHA:g}")
    target_modules: list[str] | str = Field(description="a list of module names, or one pattern")
    rank_pattern: _Ranks | None = Field(None, description="ranks by module pattern, whole numbers from 1")
    alpha_pattern: _Alphas | None = Field(None, description="numbers above 0 by module pattern")
    use_rslora: bool | None = Field(None, description="true or false")
    exclude_modules: list[str] | str | None = Field(None, description="module names, one pattern, or null")
    layers_to_transform: _Layers | int | None = Field(None, description=f"up to {MAX_LIST} layer numbers, or null")
    layers_pattern: _Parents | _Plain | None = Field(
        None, description="up to 8 plain module names, such as 'layers', or null"
    )
    init_lora_weights: bool | str | None = Field(None, description="true, false or the name of an initialisation")
    bias: str | None = Field(None, description='"none"')
    task_type: str | None = Field(None, description="CAUSAL_LM, FEATURE_EXTRACTION or null")
    base_model_name_or_path: str | None = Field(None, description="a name or null")
    revision: str | None = Field(None, description="a revision or null")

    use_dora: Any = _unserved(
        "plain LoRA: train with use_dora=False, or have this one cut to it with --compress-to R "
        "(compress_to over HTTP), which reports what is lost"
    )
    lora_bias: Any = _unserved("train with lora_bias=False")
    modules_to_save: Any = _unserved(
        "none: train a LoRA on these modules instead, full copies share no base model; copies that were "
        "never trained are dropped with --compress-to R (compress_to over HTTP)"
    )
    layer_replication: Any = _unserved("train on the base model as it is, without replicated layers")
    trainable_token_indices: Any = _unserved(
        "train without new tokens: all adapters share one tokenizer and one embedding"
    )
    target_parameters: Any = _unserved("target_modules instead: LoRA on bare parameters is not served")
    alora_invocation_tokens: Any = _unserved("plain LoRA: activated LoRA is not served")
    use_qalora: Any = _unserved("plain LoRA: train with use_qalora=False")
    use_bdlora: Any = _unserved("plain LoRA: block-diagonal LoRA is not served")
    arrow_config: Any = _unserved("one plain adapter: routing between adapters is not served")
    kasa_config: Any = _unserved("plain LoRA: KaSA changes the base model's weights, which all adapters share")
    megatron_config: Any = _unserved("an adapter for transformers' own layers: Megatron's are not served")
    monteclora_config: Any = _unserved("plain LoRA: sampled adapter weights are not served")
    runtime_config: Any = _unserved("none: it is no part of what save_pretrained writes")

    auto_mapping: _Object = Field(None, description="an object or null")
    corda_config: _Object = Field(None, description="an object or null")
    ensure_weight_tying: bool | None = Field(None, description="true or false")
    eva_config: _Object = Field(None, description="an object or null")
    fan_in_fan_out: bool | None = Field(None, description="true or false")
    inference_mode: bool | None = Field(None, description="true or false")
    loftq_config: _Object = Field(None, description="an object or null")
    lora_dropout: _Share = Field(None, description="a number from 0 to 1")
    lora_ga_config: _Object = Field(None, description="an object or null")
    megatron_core: str | None = Field(None, description="a name or null")
    peft_version: str | None = Field(None, description="a version or null")
    qalora_group_size: int | None = Field(None, description="a whole number or null")
    velora_config: _Object = Field(None, description="an object or null")

    @classmethod
    def parse(cls, raw: bytes) -> PeftConfig:
        """Parse the content of adapter_config.json; whether it can be served: see ``unservable``.

        Fields that PEFT 0.21 does not know are ignored, as by PEFT itself, and listed in ``ignored``.

        Raises:
            AdapterRefused: not such a config; fields that are missing or of another kind; an unknown field that may
                stand for another kind of LoRA. The faults of ``unservable`` are among the others.
        """
        config, faults = cls.read(raw)
        if faults:
            raise AdapterRefused([*faults, *config.unservable()])
        return config

    @classmethod
    def read(cls, raw: bytes) -> tuple[PeftConfig, list[Fault]]:
        """Return the config that ``raw`` holds and the faults for which ``parse`` would refuse it.

        With a fault, the config shows what else is wrong: a field without a valid value has one of ``_STAND_INS``.

        Raises:
            AdapterRefused: the file is no config of a LoRA at all.
        """
        fields = parse_fields(raw)
        if fields.get("peft_type", LORA) != LORA:  # another method's fields would all read as unknown
            needed = '"LORA": convert with peft.save_as_lora, or train a LoRA'
            raise AdapterRefused([config_fault("peft_type", shown(fields["peft_type"]), needed)])
        faults = list(unknown_switches(fields, cls.model_fields))
        try:
            config = cls.model_validate(fields)
        except ValidationError as error:
            faults.extend(_invalid_fields(error))
            invalid = {entry["loc"][0] for entry in error.errors()}
            valid = {name: value for name, value in fields.items() if name not in invalid}
            config = cls.model_validate({**_STAND_INS, **valid})
        config._ignored = ignored_fields(fields, cls.model_fields)
        return config, faults

    @property
    def ignored(self) -> tuple[str, ...]:
        """The names of fields with a value that PEFT 0.21 does not know."""
        return self._ignored

    def unservable(self) -> Iterator[Fault]:
        """Yield a fault for each field that the engine does not implement, or not as PEFT does."""
        for field, needed in UNSERVED.items():
            value = getattr(self, field)
            if value or (field in _NESTED and value is not None):
                yield config_fault(field, shown(value), needed)
        if self.bias not in {None, "none"}:
            yield config_fault("bias", shown(self.bias), '"none": train without biases')
        if self.task_type not in _TASKS:
            yield config_fault("task_type", shown(self.task_type), "an adapter for CAUSAL_LM")
        init = self.init_lora_weights
        if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
            otherwise = "convert by PEFT's save_pretrained(path_initial_model_for_weight_conversion=...) to plain LoRA"
            if init.lower() == LOFTQ:
                otherwise = "train with init_lora_weights=true, on a quantised base too (QLoRA)"
            needed = "an initialisation that keeps the base model: send the initial adapter too, its two files in "
            yield config_fault("init_lora_weights", shown(init), f"{needed}{INITIAL}/, or {otherwise}")
        yield from self._layer_faults()
        if not self.target_modules:
            yield config_fault(
                "target_modules", shown(self.target_modules), "the names of the modules that carry a LoRA"
            )

    def _layer_faults(self) -> Iterator[Fault]:
        # PEFT raises for these; written by hand they are a mistake.
        for field in ("layers_to_transform", "layers_pattern"):
            if isinstance(self.target_modules, str) and (value := getattr(self, field)) is not None:
                yield config_fault(field, shown(value), "null, or target_modules as a list of module names")
        if self.layers_pattern and self.layers_to_transform is None:
            yield config_fault("layers_pattern", shown(self.layers_pattern), "layers_to_transform beside it, or null")

    @property
    def intricate_patterns(self) -> list[str]:
        """The patterns that are matched in a child process only."""
        named = (key for field in _PATTERN_FIELDS for key in getattr(self, field) or ())
        return [key for key in dict.fromkeys(named) if not is_simple(key)]

    def settled(self, modules: Iterable[str]) -> PeftConfig:
        """Return this config for ``modules`` alone, with its intricate patterns matched. Blocks where it has some.

        Raises:
            AdapterRefused: patterns do not compile, or take too long.
        """
        named = frozenset(modules)
        faults = []
        settled = self.model_copy()
        settled._matched = {}
        for pattern in self.intricate_patterns:
            try:
                settled._matched[pattern] = modules_of(pattern, named)
            except ValueError as unfit:
                field = next(field for field in _PATTERN_FIELDS if pattern in (getattr(self, field) or ()))
                faults.append(config_fault(f"{field}.{pattern}", shown(pattern), str(unfit)))
        if faults:
            raise AdapterRefused(faults)
        return settled

    @property
    def ranks(self) -> Mapping[str, int]:
        """Every rank that the config names, by field: ``r`` and the entries of ``rank_pattern``."""
        patterns = self.rank_pattern or {}
        return {"r": self.r, **{f"rank_pattern.{pattern}": rank for pattern, rank in patterns.items()}}

    def rank_of(self, module: str) -> int:
        """The rank that PEFT gives ``module``: the first matching pattern's, else ``r``."""
        return self._first_match(self.rank_pattern, module, self.r)

    def alpha_of(self, module: str) -> float:
        """The alpha that PEFT gives ``module``: the first matching pattern's, else ``lora_alpha``."""
        return self._first_match(self.alpha_pattern, module, self.lora_alpha)

    def _first_match(self, patterns: Mapping[str, _Value] | None, module: str, default: _Value) -> _Value:
        return next((value for key, value in (patterns or {}).items() if self._means(key, module)), default)

    def _means(self, pattern: str, module: str) -> bool:
        return matches(pattern, module) if is_simple(pattern) else module in self._matched[pattern]

    def targeted(self, modules: Iterable[str]) -> frozenset[str]:
        """The ``modules`` that PEFT would put a LoRA on. Blocks where a pattern over all modules has to be matched.

        Raises:
            AdapterRefused: a pattern does not compile, or takes too long.
        """
        named = frozenset(modules)
        if isinstance(self.exclude_modules, str) and self.exclude_modules:
            named -= _matching("exclude_modules", self.exclude_modules, named)
        elif self.exclude_modules:
            excluded = frozenset(self.exclude_modules)
            named -= {module for module in named if not excluded.isdisjoint(suffixes(module))}
        targets = self.target_modules
        if not isinstance(targets, str):
            listed = frozenset(targets)
            ends_alike = {module for module in named if not listed.isdisjoint(suffixes(module))}
            return frozenset(each for each in ends_alike if each in listed or self._is_transformed_layer(each))
        if targets.lower() == ALL_LINEAR:
            return frozenset(module for module in named if module.rpartition(".")[2] not in _EMBEDDINGS)
        return _matching("target_modules", targets, named)

    def _is_transformed_layer(self, module: str) -> bool:
        layers = self.layers_to_transform
        if layers is None or layers == []:
            return True
        parents = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        for prefix in [rf"(?:^|.*?\.){parent}" for parent in parents or ()] or [r".*?\.[^.]*"]:
            if match := re.match(rf"{prefix}\.(\d+)\.", module):
                return int(match[1]) in ([layers] if isinstance(layers, int) else layers)
        return False


UNSERVED: Mapping[str, str] = {
    name: field.description or "" for name, field in PeftConfig.model_fields.items() if field.annotation is Any
}
"""Fields that change what the adapter computes, with what is needed instead."""


def _matching(field: str, pattern: str, modules: frozenset[str]) -> frozenset[str]:
    try:
        return matching(pattern, modules)
    except ValueError as unfit:
        raise AdapterRefused([config_fault(field, shown(pattern), str(unfit))]) from None


def suffixes(module: str) -> Iterator[str]:
    """Yield the names that mean ``module`` in a config's list: ``a.b.c``, ``b.c``, ``c``."""
    parts = module.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))


def _invalid_fields(error: ValidationError) -> Iterator[Fault]:
    seen = set()
    for entry in error.errors(include_url=False):
        field, *inner = map(str, entry["loc"])
        where = f"{field}.{inner[0]}" if inner and field in _PATTERN_FIELDS else field
        if where in seen:  # a union reports each of its branches
            continue
        seen.add(where)
        found = "nothing" if entry["type"] == "missing" else shown(entry["input"])
        yield config_fault(where, found, _needed(field, entry["type"], entry["msg"]))


def _needed(field: str, kind: str, message: str) -> str:
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    return PeftConfig.model_fields[field].description or message


def claims_lora(directory: Path) -> bool:
    """Whether the config in ``directory`` names LoRA, or cannot be read at all: no other kind that may be compiled."""
    kind = strict_json.fields_in(directory / CONFIG_FILE).get("peft_type", LORA)
    return isinstance(kind, str) and kind.upper() == LORA
