"""The spec of a run as it stands on disk, and from a job."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from trainer.job_preflight import run_spec
from trainer.jobs.job import Job
from trainer.options import TrainingOptions
from trainer.renderer_options import RendererOptions
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec
from trainer.training_method import TrainingMethod

OF_THE_FIRST_RELEASE = """{
    "base": "/models/base", "training_file": "/files/a", "validation_file": null, "method": "dpo", "n_epochs": 3,
    "batch_size": "auto", "learning_rate_multiplier": 2.0, "beta": 0.2, "seed": 7, "rank": 8, "alpha": 16.0,
    "targets": ["q_proj", "v_proj"], "quantization": "4bit", "max_length": 64, "drop_long": true, "packing": false,
    "patience": 2, "checkpoint_steps": 5, "warm_start": null, "threads": 1, "processes": 1
}"""
"""A ``spec.json`` as releases before ``trainer.options`` wrote it."""
INPUTS = {"base": Path("base"), "training_file": Path("rows"), "threads": 1, "processes": 1}


def test_the_spec_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(OF_THE_FIRST_RELEASE)
    spec = RunDirectory(tmp_path).spec()
    assert (spec.base, spec.method, spec.targets) == (Path("/models/base"), TrainingMethod.DPO, ("q_proj", "v_proj"))
    written, read = json.loads(OF_THE_FIRST_RELEASE), spec.model_dump(mode="json")
    assert {key: read[key] for key in written} == written
    of_defaults = RunSpec(**INPUTS).model_dump(mode="json")
    assert all(read[key] == of_defaults[key] for key in read.keys() - written.keys())
    assert spec.renderer == RendererOptions(), "the tokenizer's own template, as that release trained"


@pytest.mark.parametrize(
    ("fault", "named"),
    [({"n_epochs": 60}, "n_epochs"), ({"mood": 1}, "mood"), ({"method": "magic"}, "method"), ({"base": None}, "base")],
)
def test_a_spec_that_cannot_be_read_is_refused_with_the_name_of_the_key(fault: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"the run's spec cannot be read: {named}: "):
        RunSpec.from_json(json.loads(OF_THE_FIRST_RELEASE) | fault)


ANY_METHOD = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
HYPERPARAMETERS = {
    TrainingMethod.REINFORCEMENT: ANY_METHOD
    | {
        "beta": 0.2,
        "algorithm": "rloo",
        "compute_multiplier": 0.5,
        "eval_interval": 3,
        "eval_samples": 2,
        "max_completion_tokens": 16,
        "reasoning_effort": "default",
    },
    TrainingMethod.DISTILL: ANY_METHOD | {"max_completion_tokens": 16, "samples": 2, "temperature": 0.5},
    TrainingMethod.FULL: ANY_METHOD | {"extraction_energy": 0.5},
}


@pytest.mark.parametrize("method", list(HYPERPARAMETERS))
async def test_every_option_of_a_job_is_in_the_spec_of_its_run(
    create: Callable[..., Awaitable[Job]], method: TrainingMethod
) -> None:
    hyperparameters = HYPERPARAMETERS[method]
    extension = {
        "rank": 4,
        "alpha": 8.0,
        "targets": ["q_proj"],
        "quantization": "4bit",
        "max_length": 64,
        "drop_long": True,
        "packing": True,
        "patience": 2,
        "checkpoint_steps": 5,
        "verdict_rows": 50,
    }
    assert set(extension).union(*HYPERPARAMETERS.values()) | {"seed"} == TrainingOptions.model_fields.keys()
    method_body = {"type": method, method: {"grader": {}, "hyperparameters": hyperparameters}}
    job = await create(method=method_body, seed=7, extension={**extension, "adapter": "sums"})
    spec = run_spec(job, INPUTS)
    assert spec.model_dump(mode="json").items() >= {**hyperparameters, **extension, "seed": 7}.items()
