"""Every row of the table of training methods is complete, and together they take every format once."""

from __future__ import annotations

import importlib
import inspect

import pytest

from server.http.schemas.fine_tuning_requests import MethodBody
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
    body = MethodBody.model_validate({"type": str(method), str(method): {"hyperparameters": {"n_epochs": 3}}})
    filled = body.to_json()[method]["hyperparameters"]
    assert filled.keys() == method.traits.options.model_fields.keys()
    assert filled["n_epochs"] == 3


def test_every_format_is_trained_on_by_one_method() -> None:
    formats = [form for method in TrainingMethod for form in method.traits.formats]
    assert sorted(formats) == sorted(RowFormat)
    assert all(TrainingMethod.for_format(form).traits.formats.count(form) == 1 for form in RowFormat)


def test_no_two_methods_have_the_same_column_of_answers() -> None:
    assert len({method.traits.answers for method in TrainingMethod}) == len(TrainingMethod)
