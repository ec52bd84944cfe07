"""The adapter as it was before its first step, which some starts of training take out of the base's weights.

Of PiSSA, OLoRA, CorDA and LoRA-GA what was learnt is the difference to it, and of LoftQ it tells which quantised copy
of the base was trained on; so it has to come along.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from adapters import strict_json
from adapters.storage.manifest import CONFIG_FILE, INITIAL

FOLDERS: Final = (INITIAL, "pissa_init")
"""What it is called beside an adapter; the second by PEFT's documentation."""

LOFTQ: Final = "loftq"
_STARTS: Final = ("pissa", "olora", "corda", "lora_ga", LOFTQ)


def start_of(init_lora_weights: Any) -> str | None:
    """Return the start that ``init_lora_weights`` names, if it is one of those."""
    if not isinstance(init_lora_weights, str):
        return None
    return next((start for start in _STARTS if init_lora_weights.lower().startswith(start)), None)


def is_needed(directory: Path) -> bool:
    """Whether the config in ``directory`` names such a start."""
    return start_of(strict_json.fields_in(directory / CONFIG_FILE).get("init_lora_weights")) is not None


def folder_in(directory: Path) -> str | None:
    """Return what the first adapter's folder in ``directory`` is called, if there is one."""
    return next((folder for folder in FOLDERS if (directory / folder).is_dir()), None)
