"""Memory that adapter slots and residents will need, computed from a base model's shapes before vLLM is started.

For each slot vLLM allocates both LoRA factors of every linear module at the largest rank, whatever is loaded, and those
of the embedding and the head. That memory is not available to the KV cache. vLLM serves two bytes per number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from adapters.base_model import EMBEDDING, HEAD, BaseModel

SLOTS: Final = 8
"""Default of ``--max-loras``. With vLLM's own, one, a cold adapter waits for every stream of another to end."""
NUMBER_BYTES: Final = 2
PADDING: Final = 64
"""vLLM rounds the vocabulary up to a multiple of this."""
SHARE_OF_WEIGHTS: Final = 0.1
"""Slots are recommended up to this share of the base model's weights."""
ALWAYS: Final = 256 * 2**20
"""Slots are recommended up to this many bytes whatever the weights take."""
MOST_SLOTS: Final = 32
"""More adapters in one batch gain little: each then has a row or two."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sums over a base model's tensor shapes, from which every size follows."""

    linear: int
    """Inputs plus outputs of all linear modules."""
    vocabulary: int
    """Inputs plus outputs of the embedding and the head."""
    weights: int
    """Numbers in the linear modules, the embedding and the head."""
    kv_numbers: int
    """Numbers per token in the KV cache of all layers."""

    @classmethod
    def of(cls, base: BaseModel, config: Mapping[str, Any]) -> Shapes:
        """Return the sums for ``base`` and its parsed config.json."""
        config = config.get("text_config", config)  # multimodal models nest it
        modules = base.modules
        linear = {path: shape for path, shape in modules.items() if path.rpartition(".")[2] not in {EMBEDDING, HEAD}}
        hidden, words = config["hidden_size"], -(-config["vocab_size"] // PADDING) * PADDING
        matrices = 1 if config.get("tie_word_embeddings") else 2
        heads = config.get("num_key_value_heads") or config["num_attention_heads"]
        width = config.get("head_dim") or hidden // config["num_attention_heads"]
        return cls(
            linear=sum(map(sum, linear.values())),
            vocabulary=2 * (hidden + words),
            weights=sum(map(prod, linear.values())) + matrices * hidden * config["vocab_size"],
            kv_numbers=2 * config["num_hidden_layers"] * heads * width,
        )

    def slot_bytes(self, rank: int) -> int:
        """Return the memory of one slot, loaded or empty."""
        return rank * (self.linear + self.vocabulary) * NUMBER_BYTES


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes in bytes for ``slots`` of ``rank``, and for ``residents`` of that rank on every linear module."""

    shapes: Shapes
    slots: int
    rank: int
    residents: int
    resident_limit: int
    """Host memory that all residents may take together."""

    def slot_bytes(self, slots: int, rank: int) -> int:
        """Return the memory of ``slots``, loaded or empty."""
        return slots * self.shapes.slot_bytes(rank)

    def tokens(self, size: int) -> int:
        """Return the number of tokens of KV cache that fit in ``size`` bytes."""
        return size // (self.shapes.kv_numbers * NUMBER_BYTES)

    @property
    def resident_bytes(self) -> int:
        """Host memory of one resident."""
        return self.rank * self.shapes.linear * NUMBER_BYTES

    @property
    def fitting_residents(self) -> int:
        """Residents that fit in the limit."""
        return self.resident_limit // self.resident_bytes

    @property
    def recommended_slots(self) -> int:
        """The largest power of two whose slots stay within the recommended share of memory; at least 1."""
        free = max(ALWAYS, int(SHARE_OF_WEIGHTS * self.shapes.weights * NUMBER_BYTES))
        slots = MOST_SLOTS
        while slots > 1 and self.slot_bytes(slots, self.rank) > free:
            slots //= 2
        return slots

    def to_json(self) -> dict[str, int]:
        """Return the plan as JSON values: sizes in bytes, counts in tokens, slots and residents."""
        slot_bytes = self.slot_bytes(self.slots, self.rank)
        return {
            "slots": self.slots,
            "rank": self.rank,
            "weights_bytes": self.shapes.weights * NUMBER_BYTES,
            "slot_bytes": slot_bytes,
            "slot_kv_tokens": self.tokens(slot_bytes),
            "kv_bytes_per_token": self.shapes.kv_numbers * NUMBER_BYTES,
            "residents": self.residents,
            "resident_bytes": self.resident_bytes,
            "resident_bytes_limit": self.resident_limit,
            "fitting_residents": self.fitting_residents,
            "recommended_slots": self.recommended_slots,
            "recommended_residents": min(self.residents, max(2, self.fitting_residents)),
        }
