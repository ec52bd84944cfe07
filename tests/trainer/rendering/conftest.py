"""One serving renderer of the embedded base, shared: making one imports vLLM."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from embedded import BASE
from trainer.renderer_options import RendererOptions
from trainer.rendering.row_renderer import RowRenderer
from trainer.rendering.serving_renderer import ServingRenderer

MakeRenderer = Callable[..., RowRenderer]
WriteRows = Callable[[Sequence[Any]], Path]


@pytest.fixture(scope="session")
def renderer() -> RowRenderer:
    return RowRenderer(ServingRenderer(BASE, RendererOptions()), most_tokens=1000)


@pytest.fixture
def renderer_with() -> MakeRenderer:
    """Make a renderer of the embedded base with other options of the server."""
    return lambda **options: RowRenderer(ServingRenderer(BASE, RendererOptions(**options)), most_tokens=1000)


@pytest.fixture
def write(tmp_path: Path) -> WriteRows:
    def write(rows: Sequence[Any]) -> Path:
        path = tmp_path / "train.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write
