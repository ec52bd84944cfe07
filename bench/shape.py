"""The models under measurement: a base model, and random LoRA adapters of it, written with numpy alone.

``embedded`` is the base that the project ships. ``100m`` is a Llama of 107 million parameters in bfloat16 with random
weights and the embedded tokenizer; its text means nothing, only its speed counts. Its weights are on disk, so that all
engines read the same ones. ``8b`` is a Llama of 8 billion parameters for a GPU: its file of weights is a header and a
hole, which takes no space, and engines draw random weights (``--load-format dummy``).
"""

from __future__ import annotations

import json
import math
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
"""Standard deviation of the weights of a base and of an adapter's B, whose effect is then small but measurable."""
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
LLAMA_8B: Final = LLAMA_100M | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "tie_word_embeddings": False,
}
NAMES: Final = ("embedded", "100m", "8b")


@dataclass(frozen=True)
class Shape:
    """A base model on disk.

    Attributes:
        directory: the model in Hugging Face's layout.
        config: the content of its config.json.
        flags: engine flags to serve it.
    """

    directory: Path
    config: dict[str, Any]
    flags: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, folder: Path) -> Shape:
        """Return the shape ``name``; ``100m`` and ``8b`` are written below ``folder``.

        Any other name is a model's directory, whose linear modules are named as Llama's.
        """
        if name == "100m":
            write_base(folder / name, LLAMA_100M)
            return cls(folder / name, LLAMA_100M)
        if name == "8b":
            write_hollow_base(folder / name, LLAMA_8B)
            return cls(folder / name, LLAMA_8B, ("--load-format", "dummy"))
        directory = EMBEDDED if name == "embedded" else Path(name)
        return cls(directory, json.loads((directory / "config.json").read_text()))

    @property
    def vocabulary(self) -> int:
        """Number of tokens of the vocabulary."""
        return int(self.config["vocab_size"])

    def modules(self) -> dict[str, tuple[int, int]]:
        """Return (out features, in features) of each linear module of each layer, by its path."""
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
    _write_beside_weights(directory, config)
    draw = np.random.default_rng(0)
    tensors = {
        name: _normal(draw, widths, SPREAD) if len(widths) > 1 else _bfloat16(np.ones(widths, np.float32))
        for name, widths in _weights(config).items()
    }
    _save(tensors, directory / "model.safetensors")


def write_hollow_base(directory: Path, config: dict[str, Any]) -> None:
    """Write a base model with the embedded tokenizer, whose weights are a hole: zeros that take no space on disk."""
    _write_beside_weights(directory, config)
    header: dict[str, Any] = {}
    end = 0
    for name, widths in _weights(config).items():
        start, end = end, end + 2 * math.prod(widths)
        header[name] = {"dtype": "BF16", "shape": widths, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + end)


def _write_beside_weights(directory: Path, config: dict[str, Any]) -> None:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    for name in TOKENIZER:
        shutil.copy(EMBEDDED / name, directory / name)


def _weights(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, table = config["hidden_size"], (config["vocab_size"], config["hidden_size"])
    ends = ("model.embed_tokens.weight", "lm_head.weight")[: 1 if config["tie_word_embeddings"] else 2]
    layers = range(config["num_hidden_layers"])
    linears = {f"{path}.weight": widths for path, widths in Shape(Path(), config).modules().items()}
    norms = [f"model.layers.{n}.{at}_layernorm.weight" for n in layers for at in ("input", "post_attention")]
    return {**dict.fromkeys(ends, table), **linears, **dict.fromkeys((*norms, "model.norm.weight"), (hidden,))}


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


def _normal(draw: np.random.Generator, shape: tuple[int, ...], spread: float) -> NDArray[np.uint16]:
    return _bfloat16(draw.standard_normal(shape, np.float32) * np.float32(spread))


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper 16 bits of ``values``: bfloat16, which numpy lacks, rounded towards zero."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _save(tensors: dict[str, NDArray[np.uint16]], path: Path) -> None:
    specs = {
        name: TensorSpec(dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes)
        for name, bits in tensors.items()
    }
    serialize_file(specs, str(path), {"format": "pt"})
