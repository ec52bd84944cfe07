"""Copies of the embedded base whose tokenizer and chat template have the shape of a known model family."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedded import BASE

TEMPLATES = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Shape:
    """A chat template of ours, the special tokens that it writes, and flags that change what it writes.

    `start` and `end` replace the embedded tokenizer's two turn tokens, `bos` its padding token.
    """

    name: str
    start: str
    end: str
    bos: str | None = None
    flags: tuple[dict[str, Any], ...] = field(default=({},))

    @property
    def template(self) -> str:
        return (TEMPLATES / f"{self.name}.jinja").read_text()

    def write_base(self, directory: Path) -> Path:
        """Write a base model that the engine and the trainer can load: the embedded weights in this shape."""
        shutil.copytree(BASE, directory)
        (directory / "chat_template.jinja").write_text(self.template)
        renamed = {"<|im_start|>": self.start, "<|im_end|>": self.end, "<|endoftext|>": self.bos or "<|endoftext|>"}
        for file in (directory / "tokenizer.json", directory / "tokenizer_config.json"):
            text = file.read_text()
            for old, new in renamed.items():
                text = text.replace(json.dumps(old), json.dumps(new))
            file.write_text(text)
        if self.bos:
            config = json.loads((directory / "tokenizer_config.json").read_text())
            (directory / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": self.bos}))
        return directory


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("qwen3", "<|im_start|>", "<|im_end|>", flags=({}, {"enable_thinking": False}, {"enable_thinking": True})),
        Shape(
            "llama3",
            "<|start_header_id|>",
            "<|eot_id|>",
            "<|begin_of_text|>",
            flags=({}, {"tools_in_user_message": False}, {"date_string": "1 Jan 2026"}),
        ),
        Shape("mistral", "[INST]", "</s>", "<s>"),
        Shape("gemma", "<start_of_turn>", "<end_of_turn>", "<bos>"),
        Shape("deepseek_r1", "<|User|>", "<|end_of_sentence|>", "<|begin_of_sentence|>"),
    )
}
