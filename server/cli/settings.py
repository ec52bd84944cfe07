"""The server's settings, read for a command: a wrong one ends it with a line that says which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.cli.failure import CommandFailed, ExitCode

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from server.settings import Settings


def settings_from(**given: object) -> Settings:
    """Return the settings that ``given`` (None: not said) and the environment make.

    Raises:
        CommandFailed: one of them is wrong.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from server.settings import UnknownSetting, read_settings

    try:
        return read_settings(**given)
    except ValidationError as wrong:
        first, *rest = map(_line, wrong.errors())
        raise CommandFailed(ExitCode.USAGE, first, *rest) from wrong
    except (UnknownSetting, SettingsError) as wrong:
        raise CommandFailed(ExitCode.USAGE, str(wrong)) from wrong


def _line(error: ErrorDetails) -> str:
    name = str(error["loc"][0])
    return f"setting {name} (PATCHBAY_{name.upper()}) is {error['input']!r}: {error['msg']}"
