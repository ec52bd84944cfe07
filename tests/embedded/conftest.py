"""The base, loaded once for the whole folder, on the one thread that the recipe is exact for."""

from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from embedded import BASE
from embedded.recipe import score


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base(_one_thread: None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return score.load(BASE)
