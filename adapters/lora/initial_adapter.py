"""The initial adapter: an adapter before its first training step, needed where its initialisation changes the base.

PiSSA, OLoRA, CorDA and LoRA-GA take it out of the base's weights, so what was trained is the difference to it; with
LoftQ it shows on which quantised copy of the base training started.
"""

from pathlib import Path
from typing import Any, Final

from adapters import strict_json
from adapters.storage.manifest import CONFIG_FILE, INITIAL

FOLDERS: Final = (INITIAL, "pissa_init")
"""Its names beside an adapter; the second is that of PEFT's documentation."""

LOFTQ: Final = "loftq"
_BASE_CHANGING: Final = ("pissa", "olora", "corda", "lora_ga", LOFTQ)


def base_changing_init(init_lora_weights: Any) -> str | None:
    """Return the initialisation that ``init_lora_weights`` names, if it changes the base model; else None."""
    if not isinstance(init_lora_weights, str):
        return None
    return next((init for init in _BASE_CHANGING if init_lora_weights.lower().startswith(init)), None)


def is_needed(directory: Path) -> bool:
    """Whether the config in ``directory`` names such an initialisation."""
    return base_changing_init(strict_json.fields_in(directory / CONFIG_FILE).get("init_lora_weights")) is not None


def folder_in(directory: Path) -> str | None:
    """Return the name of the initial adapter's folder in ``directory``; None: there is none."""
    return next((folder for folder in FOLDERS if (directory / folder).is_dir()), None)
