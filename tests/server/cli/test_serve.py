"""What `patchbay serve` makes of its command line."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from server.cli.serve import app as serve_app
from server.cli.serve import given_settings, serve
from server.settings import Settings


@pytest.fixture
def parse():
    """Parses a command line as `patchbay serve` does, and returns the settings it states."""
    import typer.main

    command = typer.main.get_command(serve_app)

    def parsed(*args: str) -> dict[str, object]:
        context = command.make_context("serve", list(args))
        stated = given_settings(context.params, context.args)
        return {name: value for name, value in stated.items() if value is not None}

    return parsed


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
def test_what_is_none_of_our_options_goes_to_the_engine(parse, line, model, flags) -> None:
    stated = parse(*line.split())
    assert (stated.get("model"), stated.get("engine_flags")) == (model, flags)
    assert stated.get("port") == (9000 if "--port" in line else None)


def test_what_is_not_said_is_left_to_the_environment(parse) -> None:
    assert parse() == {}


def test_an_option_that_repeats_collects(parse) -> None:
    assert [str(path) for path in parse("--source-dir", "a", "--source-dir", "b")["source_dirs"]] == ["a", "b"]


def test_every_setting_has_an_option() -> None:
    options = set(inspect.signature(serve).parameters) - {"ctx", "help_engine"}
    assert options == set(Settings.model_fields) - {"engine_flags", "fault_at", "hub_token"}


def test_help_takes_meaning_and_default_of_an_option_from_the_settings(patchbay) -> None:
    shown = " ".join(patchbay("serve", "--help", env={"COLUMNS": "200"}).stdout.split())
    assert "Adapters held ready by the engine at once. Default: 64. PATCHBAY_MAX_RESIDENTS" in shown


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (["--port", "99999"], {}, "setting port (PATCHBAY_PORT) is 99999: Input should be less than or equal to 65535"),
        ([], {"PATCHBAY_MAX_RESIDENTS": "many"}, "setting max_residents (PATCHBAY_MAX_RESIDENTS) is 'many'"),
        ([], {"PATCHBAY_PROT": "1"}, "PATCHBAY_PROT is no setting of patchbay"),
        ([], {"PATCHBAY_SOURCE_DIRS": "not json"}, "source_dirs"),
    ],
)
def test_a_wrong_setting_ends_it_with_one_line(patchbay, args, env, said) -> None:
    result = patchbay("serve", *args, env=env)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert said in result.stderr


def test_an_option_of_ours_with_a_wrong_value_is_a_usage_error(patchbay) -> None:
    assert patchbay("serve", "--port", "high").exit_code == 2


def test_help_needs_neither_the_server_nor_the_engine() -> None:
    program = (
        "import sys; from server.cli import app; app(['--help'], standalone_mode=False); "
        "print([name for name in ('vllm', 'torch', 'fastapi', 'sqlalchemy', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_the_exit_codes(patchbay) -> None:
    result = patchbay("--help")
    assert result.exit_code == 0
    assert "3 the server cannot be reached" in " ".join(result.stdout.split())
