"""The small chat model of this repository, with which everything runs without a GPU and without a hub.

`BASE` is the model (Qwen3 architecture, 7 MB), `ADAPTERS` holds one example LoRA adapter per folder, `DATA`
the training and held-out files those adapters were made from. `embedded.recipe` makes all three again from a
seed.
"""

from pathlib import Path
from typing import Final

__all__ = ["ADAPTERS", "BASE", "DATA"]

_HERE = Path(__file__).parent

BASE: Final[Path] = _HERE / "base"
ADAPTERS: Final[Path] = _HERE / "adapters"
DATA: Final[Path] = _HERE / "data"
