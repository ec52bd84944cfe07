"""The options of a training run on the command line, made from ``trainer.options.TrainingOptions``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer
from typer.core import TyperCommand

from server.cli.failure import CommandFailed, ExitCode
from server.cli.settings import generated_params
from trainer.data.training_file import read_file

if TYPE_CHECKING:
    from pydantic import BaseModel

    from trainer.training_method import TrainingMethod

Options = TypeVar("Options", bound="BaseModel")

_FLAGS: Final = {"n_epochs": "--epochs", "learning_rate_multiplier": "--rate-multiplier"}
"""Flags that are not called as their field."""


PromptOption: Final = typer.Option(
    metavar="FILE",
    help="What distill makes an adapter of: a system prompt as text, or messages as JSON.",
)


class TrainingCommand(TyperCommand):
    """A command with the option ``--method`` and one for each training option; ``ctx.obj`` is what the user stated.

    The options are made when the command is parsed: importing pydantic would slow down every other command.
    """

    @cached_property
    def _training_params(self) -> list[Any]:
        return generated_params(_options())

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters of the command's function and of the training options, ``--help`` last."""
        *own, help_option = super().get_params(ctx)
        return [*own, *self._training_params, help_option]

    def invoke(self, ctx: Any) -> Any:
        stated = {param.name: ctx.params.pop(param.name) for param in self._training_params}
        ctx.obj = _validated({name: value for name, value in stated.items() if value is not None})
        return super().invoke(ctx)


def split_options(method: TrainingMethod, stated: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the hyperparameters of ``method`` among the ``stated`` options, and the options of every job.

    Raises:
        CommandFailed: one is a hyperparameter of other methods alone, or has a value that others alone take.
    """
    from trainer.options import JobOptions

    of_job = {name: value for name, value in stated.items() if name in JobOptions.model_fields}
    of_method = {name: value for name, value in stated.items() if name in method.traits.options.model_fields}
    if foreign := stated.keys() - of_job.keys() - of_method.keys():
        flags = ", ".join(map(_flag, sorted(foreign)))
        raise CommandFailed(ExitCode.USAGE, f"{flags} has no effect with --method {method}: leave it out")
    for name in method.traits.without.keys() & of_job.keys():
        raise CommandFailed(
            ExitCode.USAGE, f"{_flag(name)} has no effect with --method {method}: {method.traits.without[name]}"
        )
    _check(method.traits.options, of_method)
    return of_method, of_job


def read_prompt_file(path: str) -> Any:
    """Return the messages in a file, which is JSON, or all of its text.

    Raises:
        CommandFailed: it cannot be read.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(ExitCode.USAGE, f"--prompt {path[:100]}: {error}") from error
    with suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, dict) and isinstance(value.get("messages"), list):
            return value["messages"]
        if isinstance(value, list):
            return value
    return text


def method_for(file: Path) -> TrainingMethod:
    """Return the method that trains on the format of the file's first readable row; supervised if none is readable."""
    from trainer.training_method import TrainingMethod

    form = next((line.form for line in read_file(file) if line.form is not None), None)
    return TrainingMethod.SUPERVISED if form is None else TrainingMethod.for_format(form)


def _options() -> Iterator[tuple[str, Any, Any]]:
    from trainer.options import TrainingOptions
    from trainer.training_method import TrainingMethod

    yield (
        "method",
        TrainingMethod,
        typer.Option(help="How to train; by default as the format of a local file asks for."),
    )
    for name, schema in TrainingOptions.model_json_schema()["properties"].items():
        is_flag = schema.get("type") == "boolean"
        default = "" if is_flag or schema["default"] is None else f" Default: {schema['default']}."
        text = schema["description"] + default
        option = typer.Option(_flag(name), help=text, metavar=None if is_flag else _metavar(schema))
        yield name, bool if is_flag else str, option


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def _metavar(schema: Mapping[str, Any]) -> str:
    """Return the values of a JSON schema in short: ``1..50|auto``."""
    alternatives = schema.get("anyOf", [schema])
    return "|".join(_values(each) for each in alternatives if each["type"] != "null")


def _values(schema: Mapping[str, Any]) -> str:
    if schema["type"] == "array":
        return "A,B"
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return "|".join(schema["enum"])
    least = schema["minimum"] if "minimum" in schema else f">{schema['exclusiveMinimum']}"
    return f"{least}..{schema.get('maximum', '')}"


def _validated(stated: dict[str, Any]) -> dict[str, Any]:
    """Return the stated options as JSON values.

    Raises:
        CommandFailed: names every option whose value is not allowed.
    """
    from trainer.options import TrainingOptions

    method = {"method": stated.pop("method")} if "method" in stated else {}
    schemas = TrainingOptions.model_json_schema()["properties"]
    values = {name: json_value(value, schemas[name]) for name, value in stated.items()}
    return {**method, **_check(TrainingOptions, values).model_dump(mode="json", exclude_unset=True)}


def _check(options: type[Options], values: Mapping[str, Any]) -> Options:
    """Return the options with these values; raises CommandFailed, which names every flag at fault."""
    from pydantic import ValidationError

    try:
        return options.model_validate(values)
    except ValidationError as error:
        faults = {str(fault["loc"][0]): fault["msg"] for fault in error.errors()}
        first, *rest = (f"{_flag(name)} {values[name]}: {message}" for name, message in faults.items())
        raise CommandFailed(ExitCode.USAGE, first, *rest) from error


def json_value(value: object, schema: Mapping[str, Any]) -> object:
    """Return the JSON value that an option's text spells: a constant, a list of names, a number, or the text itself."""
    alternatives = schema.get("anyOf", [schema])
    if not isinstance(value, str) or {"const": value, "type": "string"} in alternatives:
        return value
    if any(each["type"] == "array" for each in alternatives):
        return [name for part in value.split(",") if (name := part.strip())]
    for number in (int, float):
        with suppress(ValueError):
            return number(value)
    return value
