"""The base model, loaded once for the folder, on one thread: only there the recipe gives the same bytes again."""

from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from embedded import BASE
from embedded.recipe import score

LoadedModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base(_one_thread: None) -> LoadedModel:
    return score.load(BASE)
