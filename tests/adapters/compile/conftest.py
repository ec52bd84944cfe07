"""The embedded model in float32, and adapters of every kind for it, trained by chance instead of by gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

import embedded
from adapters.compile.compiler import CompileBounds, compile_directory
from adapters.compile.weights import BaseWeights
from adapters.errors import AdapterRefused, Fault
from adapters.lora.canonical_form import CompileReport
from tests.adapters.compile.spoiling import Compile, Refuse, log_probabilities, train


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As in the compiler's own process."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model in float32, so that an exact compilation can be told from one that rounds to bfloat16."""
    directory = tmp_path_factory.mktemp("base")
    AutoModelForCausalLM.from_pretrained(embedded.BASE, dtype=torch.float32).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def base(base_directory: Path) -> BaseWeights:
    return BaseWeights(base_directory)


@pytest.fixture(scope="session")
def loaded(base_directory: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(base_directory, dtype=torch.float32).eval()


@pytest.fixture
def fresh(loaded: PreTrainedModel) -> Callable[[], PreTrainedModel]:
    """A copy of the base model that a tuner may change."""
    return lambda: copy.deepcopy(loaded)


@pytest.fixture
def save(fresh: Callable[[], PreTrainedModel], tmp_path: Path) -> Callable[..., Path]:
    """Lets PEFT make, train and save an adapter, as a user would."""

    def save(config: PeftConfig, by: float = 0.02) -> Path:
        torch.manual_seed(0)
        model = get_peft_model(fresh(), config)
        train(model, by)
        model.save_pretrained(tmp_path / "saved")
        return tmp_path / "saved"

    return save


@pytest.fixture
def answers(fresh: Callable[[], PreTrainedModel]) -> Callable[[Path], torch.Tensor]:
    """The log-probabilities of the base with an adapter, as PEFT computes them: [2, 32, vocabulary]."""
    return lambda adapter: log_probabilities(PeftModel.from_pretrained(fresh(), adapter).eval())


@pytest.fixture
def compiled(base: BaseWeights, tmp_path: Path) -> Compile:
    def compiled(
        source: Path, max_rank: int = 64, compress_to: int | None = None, out: str = "compiled", on: BaseWeights = base
    ) -> tuple[CompileReport, Path]:
        return compile_directory(source, tmp_path / out, on, CompileBounds(max_rank, compress_to)), tmp_path / out

    return compiled


@pytest.fixture
def refused(compiled: Compile, tmp_path: Path) -> Refuse:
    """Compiles an adapter, which must be refused and leave nothing, and gives the faults."""

    def faults_of(source: Path, **bounds: Any) -> tuple[Fault, ...]:
        with pytest.raises(AdapterRefused) as refused:
            compiled(source, **bounds)
        assert not (tmp_path / "compiled").exists()
        return refused.value.faults

    return faults_of
