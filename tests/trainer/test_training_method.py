"""Every row of the table of training methods is complete, and together they take every format once."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

from server.http.schemas.fine_tuning_requests import MethodBody
from trainer.errors import InvalidField
from trainer.options import MethodOptions, TrainingOptions
from trainer.row_formats import RowFormat
from trainer.training_method import TrainingMethod


@pytest.mark.parametrize("method", list(TrainingMethod))
def test_a_method_has_a_page_that_trains(method: TrainingMethod) -> None:
    page = importlib.import_module(f"trainer.methods.{method}")
    assert list(inspect.signature(page.train).parameters) == ["run", "spec", "stop"]


@pytest.mark.parametrize("method", list(TrainingMethod))
def test_a_method_takes_hyperparameters_that_a_run_has_too(method: TrainingMethod) -> None:
    options = method.traits.options
    assert issubclass(options, MethodOptions)
    assert options.model_fields.keys() <= TrainingOptions.model_fields.keys()


@pytest.mark.parametrize("method", list(TrainingMethod))
def test_a_job_s_body_has_a_field_for_a_method(method: TrainingMethod) -> None:
    graded: dict[str, Any] = {"grader": {"type": "string_check"}} if method.draws else {}
    if method.traits.is_taught:
        graded = {"prompt": [{"role": "system", "content": "Be brief."}]}
    body = MethodBody.model_validate({"type": str(method), str(method): {"hyperparameters": {"n_epochs": 3}, **graded}})
    filled = body.to_json()[method]
    assert filled["hyperparameters"].keys() == method.traits.options.model_fields.keys()
    assert filled["hyperparameters"]["n_epochs"] == 3
    assert {name: filled[name] for name in filled if name != "hyperparameters"} == graded


def test_a_method_that_draws_answers_needs_a_grader() -> None:
    with pytest.raises(InvalidField, match=r"method\.reinforcement\.grader is missing"):
        MethodBody.model_validate({"type": "reinforcement"}).to_json()


def test_every_format_is_for_one_method_unless_another_is_stated() -> None:
    for form in RowFormat:
        assert form in TrainingMethod.for_format(form).traits.formats
    assert TrainingMethod.for_format(RowFormat.PREFERENCE) is TrainingMethod.DPO
    assert TrainingMethod.REWARD.traits.formats[1:] == TrainingMethod.DPO.traits.formats
