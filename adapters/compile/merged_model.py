"""Merges an adapter into the weights of its base model: a child process.

A question names the directories ``base``, ``adapter`` and ``out``, which gets the whole model in Hugging Face format:
safetensors, config, tokenizer, in the base's own dtype.
"""

import shutil
from pathlib import Path
from typing import Any, Final

from peft import PeftModel
from transformers import AutoModelForCausalLM

from adapters.processes.line_process import serve_lines

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


def _merge(question: dict[str, Any]) -> dict[str, Any]:
    base, adapter, out = (Path(question[name]) for name in ("base", "adapter", "out"))
    try:
        merge(base, adapter, out)
    except (OSError, ValueError) as error:
        return {"refused": f"{base} and {adapter} cannot be merged: {error}"}
    return {}


if __name__ == "__main__":
    serve_lines(_merge)
