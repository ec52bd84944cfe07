"""Reads the configs of PEFT's methods strictly: PEFT gets known fields only, none with a path or a repository."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peft import LoraConfig, PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from adapters.compile.kinds import RENAMED
from adapters.compile.skeleton import PEFT_ERRORS, config_refused
from adapters.errors import AdapterRefused, Fault
from adapters.lora.config_fields import shown, unknown_switches
from adapters.lora.peft_config import UNSERVED
from adapters.lora.peft_config import PeftConfig as LoraFields
from adapters.storage.manifest import CONFIG_FILE

_IDENTITY = frozenset(field.name for field in dataclasses.fields(PeftConfig))
"""An adapter's origin. PEFT would look some of these up, on the hub too, so it never gets them."""
_CHECKED_ELSEWHERE = frozenset({"modules_to_save"})
_UNSERVED: Mapping[str, str] = {
    **{field: needed for field, needed in UNSERVED.items() if field not in _CHECKED_ELSEWHERE},
    "loftq_config": "an unchanged base model",
    "sample_at_inference": "an adapter that answers alike twice: save with sample_at_inference=False",
    "use_dora": "this method by itself",
    "use_qalora": "this method by itself",
    "velora_config": "this method by itself",
}
"""Fields of any method that no change to a weight expresses, with what is needed instead."""


def config_of(kind: str, fields: Mapping[str, Any]) -> PeftConfig:
    """Return the config of a method other than LoRA, without fields that name a path or a repository.

    Fields that PEFT does not know are left out, as PEFT leaves them out.

    Raises:
        AdapterRefused: fields that no change to a weight expresses, or of a wrong type.
    """
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[RENAMED.get(kind, kind)]
    known = known_fields(kind)
    if faults := list(_field_faults(fields, known)):
        raise AdapterRefused(faults)
    kept = {name: value for name, value in fields.items() if name in known - _IDENTITY - _CHECKED_ELSEWHERE}
    try:
        config: PeftConfig = config_class(**kept, inference_mode=True)
    except PEFT_ERRORS as error:
        raise config_refused(error) from None
    return config


def known_fields(kind: str) -> frozenset[str]:
    """Return the names of the fields that the config of a method has."""
    return frozenset(field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[RENAMED.get(kind, kind)]))


def dora_config_of(config: LoraFields, modules: Sequence[str]) -> PeftConfig:
    """Return the config of a DoRA on ``modules``, from checked fields."""
    return LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        target_modules=list(modules),
        rank_pattern={re.escape(module): config.rank_of(module) for module in modules if config.rank_pattern},
        alpha_pattern={re.escape(module): config.alpha_of(module) for module in modules if config.alpha_pattern},
        use_rslora=bool(config.use_rslora),
        use_dora=True,
        inference_mode=True,
    )


def _field_faults(fields: Mapping[str, Any], known: frozenset[str]) -> Iterator[Fault]:
    yield from unknown_switches(fields, known | _UNSERVED.keys())
    for name, value in fields.items():
        where = f"{CONFIG_FILE}: {name}"
        if name in _UNSERVED and value:
            yield Fault(where, shown(value), _UNSERVED[name])
        elif name in {"bias", "lora_bias"} and value not in (None, "none", False):
            yield Fault(where, shown(value), '"none": train without biases')
        elif name == "task_type" and value not in (None, "CAUSAL_LM", "FEATURE_EXTRACTION"):
            yield Fault(where, shown(value), "an adapter for CAUSAL_LM")
        elif name == "target_modules" and not (isinstance(value, str | list) and value):
            yield Fault(where, shown(value), "the names of the modules that carry the adapter")
