"""The methods of PEFT that change weights alone, and why the others are refused."""

from collections.abc import Mapping
from typing import Any

from adapters.errors import Fault
from adapters.lora.config_fields import shown
from adapters.storage.manifest import CONFIG_FILE

CHANGES = frozenset(
    {"ADALORA", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LOHA", "LOKR"}
    | {"MISS", "OFT", "PEANUT", "PVERA", "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING", "VBLORA", "VERA", "WAVEFT"}
)
"""Methods whose change to a weight follows from their file and that weight; a test compares each with PEFT."""

RENAMED = {"BONE": "MISS"}
"""Names that PEFT 0.21 no longer knows, and their successors."""

_PROMPTS = (
    "ADAPTION_PROMPT",
    "CARTRIDGE",
    "CPT",
    "MULTITASK_PROMPT_TUNING",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
)
_PARTS = ("ADAMSS", "FROD", "OSF", "PSOFT", "TINYLORA", "UNILORA")
_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(_PROMPTS, "tokens or keys put before the prompt, which are no change to the weights"),
    **dict.fromkeys(_PARTS, "parts that PEFT draws from the base model anew at each load and does not save"),
    "LN_TUNING": "changed layer norms, which all adapters share",
    "BEFT": "biases, which all adapters share",
    "TRAINABLE_TOKENS": "changed embeddings, which all adapters share",
    "XLORA": "a mixture of adapters that is weighted anew for each token",
    "POLY": "a mixture of adapters that is weighted for each task",
    "LILY": "adapters that are weighted anew for each token",
    "SHADOW": "a second model beside the base",
}


def refusal(kind: Any) -> Fault | None:
    """Return the fault of an adapter of PEFT's type ``kind``; None if it can be compiled."""
    where = f"{CONFIG_FILE}: peft_type"
    if not isinstance(kind, str):
        return Fault(where, shown(kind), '"LORA", or another of PEFT\'s types')
    if kind == "LORA" or RENAMED.get(kind, kind) in CHANGES:
        return None
    if kind in _REFUSED:
        needed = "LoRA, or a method that changes weights alone: train another adapter"
        return Fault(where, f"{shown(kind)}: {_REFUSED[kind]}", needed)
    return Fault(where, shown(kind), f"one of LORA, {', '.join(sorted(CHANGES))}")
