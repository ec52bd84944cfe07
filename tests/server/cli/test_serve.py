"""The options of `patchbay serve` and of other commands that take settings, and what they come to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer
import typer.main

from server.cli import app
from server.cli.failure import CommandFailed
from server.cli.settings import ENVIRONMENT_ONLY, SettingsCommand, option_of, settings_of
from server.settings import PREFIX, Settings
from tests.server.cli.conftest import Patchbay

OPTIONS = {
    name: option_of(name, field) for name, field in Settings.model_fields.items() if name not in ENVIRONMENT_ONLY
}
LISTS = ("source_dirs", "source_buckets", "integrations", "allowed_origins", "allowed_methods", "allowed_headers")
LISTS += ("key_limits", "project_limits")
SWITCHES = ("allow_anonymous", "allow_credentials", "worker", "access_log", "python_graders")
VALUES = (
    "1",
    "0",
    "-1",
    "2.5",
    "1e3",
    "1_000",
    " 7 ",
    "",
    "many",
    "99999",
    "auto",
    "json",
    "wandb",
    "/srv/data",
    "None",
)


@pytest.fixture
def command() -> SettingsCommand:
    command = typer.main.get_group(app).commands["serve"]
    assert isinstance(command, SettingsCommand)
    return command


@pytest.fixture
def context(command: SettingsCommand) -> Callable[..., typer.Context]:
    """Parses a command line as `patchbay serve` does."""
    return lambda *args: command.make_context("serve", list(args))


@pytest.fixture
def parse(context: Callable[..., typer.Context]) -> Callable[..., dict[str, object]]:
    """Parses a command line as `patchbay serve` does, and returns the settings on it."""
    return lambda *args: context(*args).obj


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)


@pytest.mark.parametrize(
    ("line", "model", "flags"),
    [
        ("", None, None),
        ("org/base", "org/base", None),
        ("--max-loras 8", None, ("--max-loras", "8")),
        ("org/base --max-loras 8", "org/base", ("--max-loras", "8")),
        ("--port 9000 org/base --max-loras 8", "org/base", ("--max-loras", "8")),
        ("org/base --max-loras 8 --port 9000 -tp 2", "org/base", ("--max-loras", "8", "-tp", "2")),
        ("--max-loras=8 --port 9000 --enforce-eager", None, ("--max-loras=8", "--enforce-eager")),
        ("--seed -1", None, ("--seed", "-1")),
    ],
)
def test_what_is_none_of_our_options_goes_to_the_engine(
    parse: Callable[..., dict[str, object]], line: str, model: str | None, flags: tuple[str, ...] | None
) -> None:
    stated = parse(*line.split())
    assert (stated.get("model"), stated.get("engine_flags")) == (model, flags)
    assert stated.get("port") == ("9000" if "--port" in line else None)


def test_a_setting_without_an_option_is_left_to_the_environment(parse: Callable[..., dict[str, object]]) -> None:
    assert parse() == {}


def test_an_option_that_repeats_collects(parse: Callable[..., dict[str, object]]) -> None:
    assert parse("--source-dir", "a", "--source-dir", "b") == {"source_dirs": ["a", "b"]}


def test_every_setting_has_an_option_or_a_reason_for_having_none(
    command: SettingsCommand, context: Callable[..., typer.Context]
) -> None:
    named = {parameter.name for parameter in command.get_params(context())} - {"help", "help_engine"}
    assert named | ENVIRONMENT_ONLY.keys() == Settings.model_fields.keys()
    assert not named & ENVIRONMENT_ONLY.keys()
    assert all(ENVIRONMENT_ONLY.values())


def test_options_are_spelled_as_their_settings_but_for_lists_and_switches() -> None:
    special = {
        "model": "MODEL",
        "source_dirs": "--source-dir",
        "source_buckets": "--source-bucket",
        "integrations": "--integration",
        "key_limits": "--key-limit",
        "project_limits": "--project-limit",
        "worker": "--worker/--no-worker",
        "access_log": "--access-log/--no-access-log",
    }
    expected = {name: special.get(name, f"--{name.replace('_', '-')}") for name in OPTIONS}
    assert expected == OPTIONS


def outcome(context: typer.Context) -> Settings | str:
    """The settings, or the message of the refusal."""
    try:
        return settings_of(context)
    except CommandFailed as failed:
        return failed.message


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {*SWITCHES, "model"}))
def test_a_value_is_accepted_or_refused_alike_as_an_option_and_as_a_variable(
    context: Callable[..., typer.Context], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for value in VALUES:
        by_option = outcome(context(f"{OPTIONS[name]}={value}"))
        with monkeypatch.context() as environment:
            environment.setenv(f"{PREFIX}{name.upper()}", json.dumps([value]) if name in LISTS else value)
            assert outcome(context()) == by_option


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_means_the_same_as_its_variable(
    context: Callable[..., typer.Context], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for spelling, value in zip(OPTIONS[name].split("/"), ("true", "false"), strict=False):
        by_option = outcome(context(spelling))
        with monkeypatch.context() as environment:
            environment.setenv(f"{PREFIX}{name.upper()}", value)
            assert outcome(context()) == by_option


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("keys list", "data_dir"),
        ("keys create x", "database_url"),
        ("worker", "log_format"),
        ("plan", "max_residents"),
        ("adapters export sql hf://org/sql", "hub_endpoint"),
    ],
)
def test_other_commands_take_settings_by_the_same_options(patchbay: Patchbay, command: str, name: str) -> None:
    page = patchbay(*command.split(), "--help", env={"COLUMNS": "400"}).stdout
    assert OPTIONS[name] in page
    assert str(Settings.model_fields[name].description) in page


def test_help_takes_meaning_and_default_of_an_option_from_the_settings(patchbay: Patchbay) -> None:
    shown = " ".join(patchbay("serve", "--help", env={"COLUMNS": "200"}).stdout.split())
    assert "Adapters that the engine holds in host memory at once. Default: 64. PATCHBAY_MAX_RESIDENTS" in shown


@pytest.mark.parametrize(
    ("args", "env", "message"),
    [
        (["--port", "99999"], {}, "--port (PATCHBAY_PORT) is '99999': Input should be less than or equal to 65535"),
        (["--port", "high"], {}, "--port (PATCHBAY_PORT) is 'high': Input should be a valid integer"),
        ([], {"PATCHBAY_MAX_RESIDENTS": "many"}, "--max-residents (PATCHBAY_MAX_RESIDENTS) is 'many'"),
        ([], {"PATCHBAY_PROT": "1"}, "PATCHBAY_PROT is not a setting of patchbay"),
        ([], {"PATCHBAY_SOURCE_DIRS": "not json"}, "PATCHBAY_SOURCE_DIRS is not a JSON list"),
    ],
)
def test_a_wrong_setting_ends_the_command_with_one_line(
    patchbay: Patchbay, args: list[str], env: dict[str, str], message: str
) -> None:
    result = patchbay("serve", *args, env=env)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_help_needs_neither_the_server_nor_the_engine() -> None:
    program = (
        "import sys; from server.cli import app; app(['--help'], standalone_mode=False); "
        "heavy = ('vllm', 'torch', 'fastapi', 'sqlalchemy', 'pydantic', 'huggingface_hub'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_the_exit_codes(patchbay: Patchbay) -> None:
    result = patchbay("--help")
    assert result.exit_code == 0
    assert "3 the server cannot be reached" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("patchbay adap", {"adapters"}),
        ("patchbay adapters pu", {"push", "pull"}),
        ("patchbay serve --log-", {"--log-format", "--log-level"}),
        ("patchbay serve --no-", {"--no-worker", "--no-access-log"}),
        ("patchbay serve --log-format ", {"text", "json"}),
        ("patchbay worker --data-", {"--data-dir"}),
        ("patchbay train --rank", {"--rank"}),
    ],
)
def test_a_shell_completes_commands_and_generated_options(line: str, offered: set[str]) -> None:
    """As the script that `patchbay --install-completion` writes calls it."""
    variables = {"_PATCHBAY_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    program = "import sys; sys.argv[0] = 'patchbay'; from server.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **variables}, check=False
    )
    assert (set(done.stdout.split()), done.stderr) == (offered, "")


def test_completion_can_be_shown_and_installed(patchbay: Patchbay) -> None:
    assert "--install-completion" in patchbay("--help", env={"COLUMNS": "200"}).stdout
    program = "import sys; sys.argv = ['patchbay', '--show-completion', 'bash']; from server.cli import main; main()"
    variables = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **variables}, check=False
    )
    assert "_PATCHBAY_COMPLETE" in shown.stdout
