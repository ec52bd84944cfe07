"""`patchbay keys`: on the database, with or without a running server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from tests.server.cli.conftest import Patchbay, Running


@pytest.fixture
def keys(patchbay: Patchbay, tmp_path: Path) -> Patchbay:
    env = {"PATCHBAY_DATA_DIR": str(tmp_path / "data")}
    return lambda *args: patchbay("keys", *args, env=env)


def test_create_prints_the_secret_alone_on_stdout_and_says_that_it_comes_once(keys: Patchbay) -> None:
    result = keys("create", "laptop")
    assert result.exit_code == 0
    assert re.fullmatch(r"pb_[a-z0-9]{8}_[A-Za-z0-9_-]{43}\n", result.stdout)
    assert "will not be shown again" in result.stderr


def test_list_shows_everything_but_the_secret(keys: Patchbay) -> None:
    secret = keys("create", "laptop", "--scope", "admin").stdout.strip()
    listed = keys("list", "--json").stdout
    (key,) = json.loads(listed)["data"]
    assert (key["id"], key["name"], key["scopes"], key["last4"], key["revoked_at"]) == (
        secret[3:11],
        "laptop",
        ["admin"],
        secret[-4:],
        None,
    )
    assert secret[12:-4] not in listed
    assert "admin" in keys("list").stdout


def test_revoke_is_for_good_and_shows_in_the_list(keys: Patchbay) -> None:
    key_id = keys("create", "laptop").stdout[3:11]
    assert keys("revoke", key_id).exit_code == 0
    assert json.loads(keys("list", "--json").stdout)["data"][0]["revoked_at"] is not None


def test_rotate_prints_the_secret_of_a_key_with_the_same_rights(keys: Patchbay) -> None:
    key_id = keys("create", "laptop", "--adapter", "team-*", "--days", "30").stdout[3:11]
    assert re.fullmatch(r"pb_[a-z0-9]{8}_[A-Za-z0-9_-]{43}\n", keys("rotate", key_id).stdout)
    old, new = json.loads(keys("list", "--json").stdout)["data"]
    assert (new["name"], new["adapters"], new["scopes"]) == ("laptop", ["team-*"], ["infer"])
    assert new["expires_at"] > old["expires_at"]


def test_revoking_an_unknown_key_exits_with_4(keys: Patchbay) -> None:
    result = keys("revoke", "aaaaaaaa")
    assert result.exit_code == 4
    assert result.stderr.startswith("error: no key has the id 'aaaaaaaa'")


def test_a_scope_that_is_none_is_a_usage_error(keys: Patchbay) -> None:
    assert keys("create", "laptop", "--scope", "root").exit_code == 2


def test_a_database_that_cannot_be_used_exits_with_3(patchbay: Patchbay, tmp_path: Path) -> None:
    result = patchbay("keys", "list", "--database-url", f"sqlite:///{tmp_path / 'no' / 'such' / 'x.db'}")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: cannot use the database")


def test_a_running_server_sees_keys_made_and_revoked_by_the_command_line(patchbay: Patchbay, server: Running) -> None:
    env = {"PATCHBAY_DATA_DIR": str(server.state.settings.data_dir)}
    secret = patchbay("keys", "create", "laptop", "--scope", "admin", env=env).stdout.strip()
    adapters, key = f"{server.url}/v1/adapters", {"Authorization": f"Bearer {secret}"}
    server.portal.call(server.state.keys.refresh)
    assert httpx.get(adapters).status_code == 401
    assert httpx.get(adapters, headers=key).status_code == 200
    patchbay("keys", "revoke", secret[3:11], env=env)
    server.portal.call(server.state.keys.refresh)
    assert httpx.get(adapters, headers=key).status_code == 401
    assert httpx.get(adapters).status_code == 401
