"""`patchbay check`, `patchbay train` and the API accept and refuse the same values of every training option."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adapters.lora.ranks import SERVABLE_RANKS
from server.cli.run_options import json_value
from tests.server.cli.conftest import Patchbay, Running
from trainer.options import ALL_LINEAR, JobOptions, TrainingOptions
from trainer.run_spec import RunSpec
from trainer.training_method import TrainingMethod

JSON = {"Content-Type": "application/json"}
FLAGS = {"n_epochs": "--epochs", "learning_rate_multiplier": "--rate-multiplier"}
SCHEMAS: Mapping[str, Any] = TrainingOptions.model_json_schema()["properties"]
TEXTS = ["auto", "all-linear", "q_proj,v_proj", " ,", "4bit", "8bit", "", "nan", "inf", "1e-9", "1.5", "x", "true"]
EDGES = [0, 1, 2, 50, 51, 60, 256, 257, 512, 513, 2**31 - 1, 2**31, 0.5, 2.5, 1e6, 1e7, -1, 10**20]
VALUES = st.sampled_from(TEXTS) | st.sampled_from(EDGES).map(str) | st.integers().map(str) | st.floats().map(str)
FLAG_OPTIONS = frozenset(name for name, schema in SCHEMAS.items() if schema.get("type") == "boolean")
ONE_OPTION = st.sampled_from(sorted(SCHEMAS)).flatmap(
    lambda name: st.tuples(st.just(name), st.just("") if name in FLAG_OPTIONS else VALUES)
)

MODULES = {"q_proj", "v_proj"}
"""Of the base that the fake engine serves."""

ExitCodeOf = Callable[[TrainingMethod, str, str], int]


def command_line(method: TrainingMethod, option: str, value: str) -> list[str]:
    flag = FLAGS.get(option, f"--{option.replace('_', '-')}")
    return ["--method", method, flag if option in FLAG_OPTIONS else f"{flag}={value}"]


def beside(method: TrainingMethod, prompt: Path) -> list[str]:
    """Return what a method needs beside its options; any text is a prompt."""
    return ["--prompt", str(prompt)] if method is PROMPTED else []


PROMPTED = TrainingMethod.DISTILL
GRADER = {"type": "string_check", "name": "n", "input": "{{sample.output_text}}", "reference": "5", "operation": "eq"}


@pytest.fixture
def check(patchbay: Patchbay, rows: Path, monkeypatch: pytest.MonkeyPatch) -> ExitCodeOf:
    """Runs ``patchbay check`` with a preflight that looks at the spec's targets and at nothing else."""

    async def preflight(spec: RunSpec) -> dict[str, Any]:
        return {"ok": spec.targets == ALL_LINEAR or MODULES.issuperset(spec.targets)}

    monkeypatch.setattr("trainer.child.run_preflight", preflight)

    def check(method: TrainingMethod, option: str, value: str) -> int:
        flags = [*command_line(method, option, value), *beside(method, rows), "--json"]
        exit_code: int = patchbay("check", str(rows), *flags).exit_code
        return exit_code

    return check


@pytest.fixture
def train(call: Patchbay, accepting_server: Running, file_id: str, rows: Path) -> ExitCodeOf:
    """Runs ``patchbay train`` against a server."""

    def train(method: TrainingMethod, option: str, value: str) -> int:
        graded = ["--grader", json.dumps(GRADER)] if method.draws else []
        flags = [*command_line(method, option, value), *graded, *beside(method, rows)]
        exit_code: int = call("train", file_id, *flags).exit_code
        return exit_code

    return train


@pytest.fixture
def create(accepting_server: Running, file_id: str) -> ExitCodeOf:
    """Sends the same job to the API, without the command line's own validation."""

    def create(method: TrainingMethod, option: str, value: str) -> int:
        stated = {option: True if option in FLAG_OPTIONS else json_value(value, SCHEMAS[option])}
        hyperparameters, own = ({}, stated) if option in JobOptions.model_fields else (stated, {})
        body = {"model": "base", "training_file": file_id, **own}
        graded = {"grader": GRADER} if method.draws else {"prompt": "Be brief."} if method is PROMPTED else {}
        body["method"] = {"type": method, method: {"hyperparameters": hyperparameters, **graded}}
        content = json.dumps(body).encode()
        response = httpx.post(f"{accepting_server.url}/v1/fine_tuning/jobs", content=content, headers=JSON)
        assert response.status_code in {200, 400}, response.text
        return 0 if response.is_success else 1

    return create


@pytest.fixture
def accepting_server(server: Running) -> Running:
    """A server whose engine takes every rank that vLLM takes."""
    engine = server.state.engine
    engine.set_info(replace(engine.info, max_rank=SERVABLE_RANKS[-1]))
    return server


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(list(TrainingMethod)), ONE_OPTION)
@example(TrainingMethod.SUPERVISED, ("n_epochs", "60"))
@example(TrainingMethod.SUPERVISED, ("n_epochs", "50"))
@example(TrainingMethod.SUPERVISED, ("learning_rate_multiplier", "1e7"))
@example(TrainingMethod.SUPERVISED, ("beta", "0.1"))
@example(TrainingMethod.DPO, ("beta", "0"))
@example(TrainingMethod.KTO, ("beta", "2"))
@example(TrainingMethod.REINFORCEMENT, ("beta", "0"))
@example(TrainingMethod.REINFORCEMENT, ("algorithm", "rloo"))
@example(TrainingMethod.REINFORCEMENT, ("algorithm", "ppo"))
@example(TrainingMethod.DISTILL, ("temperature", "0"))
@example(TrainingMethod.DISTILL, ("samples", "17"))
@example(TrainingMethod.REWARD, ("beta", "0.1"))
@example(TrainingMethod.FULL, ("extraction_energy", "1"))
@example(TrainingMethod.FULL, ("quantization", "4bit"))
@example(TrainingMethod.SUPERVISED, ("alpha", "0"))
@example(TrainingMethod.SUPERVISED, ("rank", "513"))
@example(TrainingMethod.SUPERVISED, ("seed", "2147483648"))
@example(TrainingMethod.SUPERVISED, ("targets", "q_proj,v_proj"))
@example(TrainingMethod.SUPERVISED, ("targets", " ,"))
def test_check_train_and_the_api_accept_the_same_values(
    check: ExitCodeOf, train: ExitCodeOf, create: ExitCodeOf, method: TrainingMethod, option: tuple[str, str]
) -> None:
    name, value = option
    exit_code = check(method, name, value)
    assert exit_code == train(method, name, value)
    assert (exit_code == 0) == (create(method, name, value) == 0)


@pytest.mark.parametrize("command", ["check", "train"])
def test_every_option_is_listed_with_its_bounds(patchbay: Patchbay, command: str) -> None:
    shown = patchbay(command, "--help", env={"COLUMNS": "300"}).stdout
    for name, schema in SCHEMAS.items():
        assert FLAGS.get(name, f"--{name.replace('_', '-')}") in shown
        assert schema["description"].split(";")[0] in shown
    assert "1..50|auto" in shown
    assert "supervised|full|dpo|kto" in shown


def test_every_wrong_option_is_named(patchbay: Patchbay, rows: Path) -> None:
    result = patchbay("check", str(rows), "--epochs", "60", "--rank", "0")
    assert result.exit_code == 2
    assert "--epochs 60: Input should be 'auto' or a number from 1 up to 50" in result.stderr
    assert "--rank 0: Input should be greater than or equal to 1" in result.stderr
