"""`patchbay bench` hands its arguments on, and the errors and pages of help are those of the scenario."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from bench.cli import SCENARIOS
from bench.scenarios.guard import guard
from server.cli import app

NAMES = [scenario.__name__ for scenario in (*SCENARIOS, guard)]


def test_every_scenario_is_a_command() -> None:
    page = CliRunner().invoke(app, ["bench", "--help"])
    assert page.exit_code == 0
    assert [name for name in NAMES if name not in page.output] == []


@pytest.mark.parametrize("scenario", NAMES)
def test_a_scenario_explains_its_own_options(scenario: str) -> None:
    page = CliRunner().invoke(app, ["bench", scenario, "--help"])
    assert page.exit_code == 0
    assert "--out" in page.output


@pytest.mark.parametrize("wrong", ["bench nonsense", "bench overhead --nonsense", "bench many --prompt long"])
def test_a_wrong_call_ends_with_the_code_of_a_wrong_call(wrong: str) -> None:
    assert CliRunner().invoke(app, wrong.split()).exit_code == 2
