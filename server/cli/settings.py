"""Command-line options generated from the fields of ``Settings``: name, help, default and variable are written there.

The values typed stay text until pydantic parses them, as it does with variables. So a value is accepted on the command
line if and only if it is accepted in the environment. pydantic is imported only when such a command is parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin

import typer
import typer.main
from typer.core import TyperCommand

from server.cli.failure import CommandFailed, ExitCode

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from server.settings import Settings

ENVIRONMENT_ONLY: Final[Mapping[str, str]] = {
    "engine_flags": "`patchbay serve` passes every option that is not its own to vLLM",
    "hub_token": "a secret, and other users of the machine can read command lines",
    "fault_at": "only crash tests set it",
}
"""Settings without an option, and why."""
VLLM_LISTS: Final = frozenset({"allowed_origins", "allowed_methods", "allowed_headers"})
"""Lists whose options have vLLM's names, which are plural."""


class SettingsCommand(TyperCommand):
    """A command with an option for each setting in ``names``; ``settings_of`` reads them."""

    names: tuple[str, ...] = ()
    """Empty: all settings but those in ``ENVIRONMENT_ONLY``."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the generated options before the command's own."""
        return [*_parameters(self.names), *super().get_params(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args``; ``ctx.obj`` becomes the settings given, by name and as text."""
        rest = super().parse_args(ctx, args)
        values = {parameter.name: ctx.params.pop(parameter.name) for parameter in _parameters(self.names)}
        ctx.obj = {name: value for name, value in values.items() if value not in (None, ())}
        return rest


def settings_command(*names: str) -> type[SettingsCommand]:
    """Return the class of a command that has options for the settings in ``names``."""
    return type("SettingsCommand", (SettingsCommand,), {"names": names})


def settings_of(ctx: typer.Context) -> Settings:
    """Return the settings that the options of a ``SettingsCommand`` and the environment make.

    Raises:
        CommandFailed: one of them is wrong.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from server.settings import UnknownSetting, read_settings

    try:
        return read_settings(**ctx.obj)
    except ValidationError as invalid:
        faults = (f"{_label(str(error['loc'][0]))} is {error['input']!r}: {error['msg']}" for error in invalid.errors())
        raise CommandFailed(ExitCode.USAGE, *faults) from invalid
    except SettingsError as malformed:
        _, name, *_ = str(malformed).split('"')  # error parsing value for field "source_dirs" from source …
        raise CommandFailed(ExitCode.USAGE, f'{_variable(name)} is not a JSON list, such as ["a", "b"]') from malformed
    except UnknownSetting as unknown:
        raise CommandFailed(ExitCode.USAGE, str(unknown)) from unknown


def option_of(name: str, field: FieldInfo) -> str:
    """Return the spelling of a setting's option, such as ``--source-dir`` for ``source_dirs``, or of its argument."""
    if name == "model":
        return "MODEL"
    flag = f"--{name.replace('_', '-')}"
    if field.default is True:
        return f"{flag}/--no-{flag[2:]}"
    is_repeated = get_origin(field.annotation) is tuple and name not in VLLM_LISTS
    return flag.removesuffix("s") if is_repeated else flag


@cache
def _parameters(names: tuple[str, ...]) -> list[Any]:
    """Return typer's parameters for the settings in ``names``."""
    from server.settings import Settings

    fields = {name: field for name, field in Settings.model_fields.items() if name not in ENVIRONMENT_ONLY}
    return generated_params(_option(name, fields[name]) for name in names or fields)


def generated_params(options: Iterable[tuple[str, Any, Any]]) -> list[Any]:
    """Return typer's parameters for ``options``: of each its name, its type, and a ``typer.Option`` or ``Argument``."""

    def command(**_: object) -> None: ...

    annotations = {name: Annotated[kind | None, info] for name, kind, info in options}
    command.__annotations__ = annotations
    command.__signature__ = Signature(  # type: ignore[attr-defined]  # typer reads it
        [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=each) for name, each in annotations.items()]
    )
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return list(typer.main.get_command(app).params)


def _option(name: str, field: FieldInfo) -> tuple[str, Any, Any]:
    kind: Any = bool if field.annotation is bool else list[str] if get_origin(field.annotation) is tuple else str
    default = field.default if kind is not bool else "on" if field.default else "off"
    text = f"{field.description} {'' if default in (None, ()) else f'Default: {default}. '}{_variable(name)}"
    spelling = option_of(name, field)
    info: Any = typer.Argument(metavar=spelling, help=text)
    if name != "model":
        metavar = None if kind is bool else _metavar(field.annotation)
        info = typer.Option(spelling, metavar=metavar, help=text, autocompletion=_completion(field.annotation))
    return name, kind, info


def _completion(annotation: Any) -> Callable[[], list[str]] | None:
    """Return a function with the values of a field that takes one of a few words, for a shell; None for others."""
    return (lambda: list(get_args(annotation))) if get_origin(annotation) is Literal else None


def _metavar(annotation: Any) -> str:
    """Return the kind of value that a field takes, such as ``<int>`` or ``text|json``; for a list, of its items."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return "|".join(arguments)
    return _metavar(arguments[0]) if arguments else f"<{annotation.__name__.lower()}>"


def _label(name: str) -> str:
    """Return the option and the variable of a setting: ``--port (PATCHBAY_PORT)``."""
    from server.settings import Settings

    if name in ENVIRONMENT_ONLY:
        return _variable(name)
    return f"{option_of(name, Settings.model_fields[name])} ({_variable(name)})"


def _variable(name: str) -> str:
    from server.settings import PREFIX

    return f"{PREFIX}{name}".upper()
