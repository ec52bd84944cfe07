"""The files of a version (two, or four with an initial adapter), and the digest that names exactly these bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from adapters.storage.disk import FileEntry

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
FILES: Final = (CONFIG_FILE, WEIGHTS_FILE)
"""The files of an adapter; pickles are not accepted."""
INITIAL: Final = "initial"
"""The folder of the initial adapter, see ``adapters.lora.initial_adapter``."""
INITIAL_FILES: Final = (f"{INITIAL}/{CONFIG_FILE}", f"{INITIAL}/{WEIGHTS_FILE}")
"""Both or neither are present."""
EVERY_FILE: Final = (*FILES, *INITIAL_FILES)

TEMPLATE_FILE: Final = "chat_template.jinja"
TOKENIZER_CONFIG_FILE: Final = "tokenizer_config.json"
ADDED_TOKENS_FILE: Final = "added_tokens.json"
SPECIAL_TOKENS_FILE: Final = "special_tokens_map.json"
TOKENIZER_FILES: Final = (TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, ADDED_TOKENS_FILE, SPECIAL_TOKENS_FILE)
"""Files beside an adapter that say how its texts became tokens. They are compared with the base model's, not kept."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a version by name."""

    files: Mapping[str, FileEntry]

    @classmethod
    def of(cls, directory: Path) -> Manifest:
        """Hash the files in ``directory``; OSError where one is missing or cannot be read."""
        return cls({name: FileEntry.of(directory / name) for name in names_in(directory)})

    @property
    def digest(self) -> str:
        """sha256 in hex of the canonical JSON ``{file: {"sha256": …, "size": …}}``: keys sorted, no space."""
        content = {name: asdict(entry) for name, entry in self.files.items()}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        return sum(entry.size for entry in self.files.values())


def names_in(directory: Path) -> tuple[str, ...]:
    """Return the names of the files that the adapter in ``directory`` has, or should have."""
    return EVERY_FILE if (directory / INITIAL).is_dir() else FILES
