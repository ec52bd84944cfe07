"""What is served while we measure: a base model, and random LoRA adapters of it. Written once, with numpy alone.

``embedded`` is the base that the project ships. ``100m`` is a Llama of 107 million parameters in bfloat16 with random
weights and the embedded tokenizer: what it says means nothing, how fast it says it does. Its weights lie on disk, so
that every engine reads the same ones.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize_file

_SHIPPED: Final = Path(__file__).parents[1] / "embedded"
EMBEDDED: Final = _SHIPPED / "base"
ADAPTERS: Final = _SHIPPED / "adapters"
TOKENIZER: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SPREAD: Final = 0.02
"""Standard deviation of the weights of a base and of an adapter's B: its effect is small, and clearly there."""
LLAMA_100M: Final = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NAMES: Final = ("embedded", "100m")


@dataclass(frozen=True)
class Shape:
    """A base model on disk.

    Attributes:
        directory: as Hugging Face lays it out.
        config: its config.json.
    """

    directory: Path
    config: dict[str, Any]

    @classmethod
    def of(cls, name: str, folder: Path) -> Shape:
        """Return the shape ``name``; one that the project does not ship is written below ``folder``.

        A name that is no shape's is a directory with a model, whose LoRA modules are named as Llama's.
        """
        directory = EMBEDDED if name == "embedded" else Path(name)
        if name == "100m":
            directory = folder / name
            write_base(directory, LLAMA_100M)
        return cls(directory, json.loads((directory / "config.json").read_text()))

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self.config["vocab_size"])

    def modules(self) -> dict[str, tuple[int, int]]:
        """Return the width out and in of each linear module of each layer, by its path."""
        layers = range(self.config["num_hidden_layers"])
        return {f"model.layers.{n}.{path}": widths for n in layers for path, widths in _linears(self.config).items()}

    def write_adapter(self, directory: Path, *, rank: int, seed: int) -> None:
        """Write a PEFT directory with random weights for all linear modules."""
        draw = np.random.default_rng(seed)
        tensors = {}
        for path, (wide, narrow) in self.modules().items():
            prefix = f"base_model.model.{path}"
            tensors[f"{prefix}.lora_A.weight"] = _normal(draw, (rank, narrow), narrow**-0.5)
            tensors[f"{prefix}.lora_B.weight"] = _normal(draw, (wide, rank), SPREAD)
        directory.mkdir(parents=True)
        _save(tensors, directory / "adapter_model.safetensors")
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": 2 * rank,
            "target_modules": sorted({path.rpartition(".")[2] for path in self.modules()}),
            "bias": "none",
        }
        (directory / "adapter_config.json").write_text(json.dumps(config))


def write_base(directory: Path, config: dict[str, Any]) -> None:
    """Write a base model with random weights and the embedded tokenizer."""
    directory.mkdir(parents=True)
    draw = np.random.default_rng(0)
    shape = Shape(directory, config)
    hidden = config["hidden_size"]
    tensors = {"model.embed_tokens.weight": _normal(draw, (config["vocab_size"], hidden), SPREAD)}
    for path, widths in shape.modules().items():
        tensors[f"{path}.weight"] = _normal(draw, widths, SPREAD)
    norms = [f"model.layers.{n}.{at}_layernorm" for n in range(config["num_hidden_layers"]) for at in _NORMS]
    tensors |= {f"{path}.weight": _bfloat16(np.ones(hidden, np.float32)) for path in (*norms, "model.norm")}
    _save(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    for name in TOKENIZER:
        shutil.copy(EMBEDDED / name, directory / name)


_NORMS: Final = ("input", "post_attention")


def _linears(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries, keys = (config["head_dim"] * config[f"num_{heads}_heads"] for heads in ("attention", "key_value"))
    return {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def _normal(draw: np.random.Generator, shape: tuple[int, int], spread: float) -> NDArray[np.uint16]:
    return _bfloat16(draw.standard_normal(shape, np.float32) * np.float32(spread))


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper halves of ``values``: bfloat16, which numpy does not have, rounded towards zero."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _save(tensors: dict[str, NDArray[np.uint16]], path: Path) -> None:
    specs = {
        name: TensorSpec(dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes)
        for name, bits in tensors.items()
    }
    serialize_file(specs, str(path), {"format": "pt"})
