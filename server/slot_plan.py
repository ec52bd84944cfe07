"""What slots and residents will take, told from a base model's shapes before anything is launched.

vLLM sets aside, for each slot, both factors of every linear module at the largest rank (whatever is loaded), and those
of the embedding and of the head. What slots take is not there for the KV cache. Two bytes a number, as vLLM serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from adapters.base_model import EMBEDDING, HEAD, BaseModel

NUMBER_BYTES: Final = 2
PADDING: Final = 64
"""vLLM rounds a vocabulary up to a multiple of this."""
SHARE_OF_WEIGHTS: Final = 0.1
"""Slots that take no more than this part of the base model's weights are no loss worth a thought."""
ALWAYS: Final = 256 * 2**20
"""Nor are those that take no more bytes than this."""
MOST_SLOTS: Final = 32
"""More adapters in one batch gain little: each then has a row or two."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the sizes follow from."""

    linear: int
    """Sum of inputs and outputs of the linear modules."""
    vocabulary: int
    """Sum of both sides of the embedding and of the head."""
    weights: int
    """Numbers in the linear modules, the embedding and the head."""
    kv_numbers: int
    """Numbers that a token takes in the KV cache of all layers."""

    @classmethod
    def of(cls, base: BaseModel, config: Mapping[str, Any]) -> Shapes:
        """Read them off ``base`` and its config.json."""
        config = _text(config)
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


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a multimodal model's config that is about text."""
    nested: Mapping[str, Any] = config.get("text_config", config)
    return nested


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes for so many slots of a rank, and for so many residents of that rank on every linear module. In bytes."""

    shapes: Shapes
    slots: int
    rank: int
    residents: int
    host: int
    """What residents may take together."""

    def slot_bytes(self, slots: int, rank: int) -> int:
        """Return what ``slots`` take, whatever is in them."""
        return slots * rank * (self.shapes.linear + self.shapes.vocabulary) * NUMBER_BYTES

    def tokens(self, size: int) -> int:
        """Return how many tokens of KV cache ``size`` bytes would hold."""
        return size // (self.shapes.kv_numbers * NUMBER_BYTES)

    @property
    def resident_bytes(self) -> int:
        """What one resident takes."""
        return self.rank * self.shapes.linear * NUMBER_BYTES

    @property
    def fitting_residents(self) -> int:
        """How many residents of that size the host's share holds."""
        return self.host // self.resident_bytes

    @property
    def recommended_slots(self) -> int:
        """The most slots, a power of two, that cost next to nothing; one at least."""
        free = max(ALWAYS, int(SHARE_OF_WEIGHTS * self.shapes.weights * NUMBER_BYTES))
        slots = MOST_SLOTS
        while slots > 1 and self.slot_bytes(slots, self.rank) > free:
            slots //= 2
        return slots

    def to_json(self) -> dict[str, int]:
        """Every number, named."""
        taken = self.slot_bytes(self.slots, self.rank)
        return {
            "slots": self.slots,
            "rank": self.rank,
            "weights_bytes": self.shapes.weights * NUMBER_BYTES,
            "slot_bytes": taken,
            "slot_kv_tokens": self.tokens(taken),
            "kv_bytes_per_token": self.shapes.kv_numbers * NUMBER_BYTES,
            "residents": self.residents,
            "resident_bytes": self.resident_bytes,
            "resident_bytes_limit": self.host,
            "fitting_residents": self.fitting_residents,
            "recommended_slots": self.recommended_slots,
            "recommended_residents": min(self.residents, max(2, self.fitting_residents)),
        }
