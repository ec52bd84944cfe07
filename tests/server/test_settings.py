"""What an operator decides, by flag or by environment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.settings import UnknownSetting, read_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for variable in [name for name in os.environ if name.startswith("PATCHBAY_")]:
        monkeypatch.delenv(variable)


def test_defaults_listen_on_this_machine_alone() -> None:
    settings = read_settings()
    assert (settings.host, settings.port, settings.is_reachable_from_outside) == ("127.0.0.1", 8000, False)
    assert read_settings(host="0.0.0.0").is_reachable_from_outside


def test_flags_win_over_the_environment_and_the_environment_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHBAY_PORT", "9000")
    monkeypatch.setenv("PATCHBAY_MAX_RESIDENTS", "7")
    settings = read_settings(port=9001, max_residents=None)
    assert (settings.port, settings.max_residents) == (9001, 7)


def test_a_variable_that_names_no_setting_is_refused_with_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHBAY_PROT", "9000")
    with pytest.raises(UnknownSetting, match=r"PATCHBAY_PROT is not a setting.*PATCHBAY_PORT"):
        read_settings()


def test_the_command_line_s_own_variables_are_no_typos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHBAY_URL", "http://elsewhere")
    monkeypatch.setenv("PATCHBAY_API_KEY", "pb_x")
    read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 70000),
        ("max_residents", 1),
        ("load_wait_s", 0),
        ("max_in_flight", 0),
        ("log_format", "xml"),
        ("prot", 1),
    ],
)
def test_a_value_out_of_range_names_the_setting(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        read_settings(**{name: value})


def test_lists_are_read_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHBAY_SOURCE_DIRS", '["/srv/a", "/srv/b"]')
    assert read_settings().source_rules.directories == (Path("/srv/a"), Path("/srv/b"))


def test_an_issuer_and_an_audience_are_named_together() -> None:
    url = "https://id.example.com"
    settings = read_settings(oidc_issuer_url=url, oidc_audience="patchbay")
    assert (settings.oidc_project_claim, settings.oidc_scope_claim) == ("project", "scope")
    for alone in ({"oidc_issuer_url": url}, {"oidc_issuer_url": url, "oidc_audience": ""}, {"oidc_audience": "a"}):
        with pytest.raises(ValidationError, match="oidc_audience"):
            read_settings(**alone)
    with pytest.raises(ValidationError, match="loopback"):
        read_settings(oidc_issuer_url="http://id.example.com", oidc_audience="patchbay")


def test_an_issuer_without_the_library_for_tokens_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joserfc", None)
    with pytest.raises(ValidationError, match=r"pip install 'patchbay\[oidc\]'"):
        read_settings(oidc_issuer_url="https://id.example.com", oidc_audience="patchbay")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        read_settings().port = 1  # type: ignore[misc]


def test_the_database_lies_in_the_data_directory_unless_named(tmp_path: Path) -> None:
    assert read_settings(data_dir=tmp_path).database == f"sqlite+aiosqlite:///{tmp_path}/registry.db"
    assert read_settings(database_url="sqlite+aiosqlite:///x.db").database == "sqlite+aiosqlite:///x.db"
