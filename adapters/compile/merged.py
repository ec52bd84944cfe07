"""``python -m adapters.compile.merged BASE ADAPTER OUT``: the whole model with an adapter merged into its weights.

OUT becomes a directory in Hugging Face format: safetensors, config, tokenizer, in the base's own dtype.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

from peft import PeftModel
from transformers import AutoModelForCausalLM

_TOKENIZER: Final = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "*.model",
)
"""Files of a base model that make its tokenizer and chat template. Copied: saved anew they would differ."""


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write the model in ``base`` with the LoRA in ``adapter`` merged into it to the directory ``out``.

    Raises:
        OSError, ValueError: a directory holds no such thing, or a merged weight is not finite.
    """
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    merged.save_pretrained(out)
    for file in sorted({file for pattern in _TOKENIZER for file in base.glob(pattern) if file.is_file()}):
        shutil.copyfile(file, out / file.name)


def main() -> None:
    """Merge what the arguments name."""
    base, adapter, out = map(Path, sys.argv[1:])
    try:
        merge(base, adapter, out)
    except (OSError, ValueError) as why:
        sys.exit(f"{base} and {adapter} cannot be merged: {why}")


if __name__ == "__main__":
    main()
