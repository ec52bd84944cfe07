"""How a command finds a server, and what it says when that goes wrong."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.access.scope import Scope
from tests.server.cli.conftest import Patchbay, Running


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def stranger() -> Iterator[str]:
    """The URL of an HTTP server that is not patchbay."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{other.server_address[1]}"
        other.shutdown()


def test_a_server_that_is_not_there_exits_with_3_and_asks_whether_it_runs(patchbay: Patchbay, free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"
    result = patchbay("adapters", "list", "--url", url)
    assert result.exit_code == 3
    assert f"is `patchbay serve` running at {url}?" in result.stderr


def test_the_url_may_be_the_one_that_openais_clients_are_given(patchbay: Patchbay, server: Running) -> None:
    assert patchbay("adapters", "list", "--url", f"{server.url}/v1/").exit_code == 0


def test_the_option_wins_over_the_environment(patchbay: Patchbay, server: Running) -> None:
    env = {"PATCHBAY_URL": "http://127.0.0.1:1"}
    assert patchbay("adapters", "list", "--url", server.url, env=env).exit_code == 0


def test_a_url_that_is_none_is_a_usage_error(patchbay: Patchbay) -> None:
    result = patchbay("adapters", "list", "--url", "nonsense")
    assert result.exit_code == 2
    assert "nonsense is not the URL of a server" in result.stderr


def test_a_server_that_is_none_of_ours_is_named(patchbay: Patchbay, stranger: str) -> None:
    result = patchbay("adapters", "list", "--url", stranger)
    assert result.exit_code == 1
    assert "is that a patchbay server?" in result.stderr


def test_a_key_is_sent_from_the_option_or_the_environment(patchbay: Patchbay, server: Running) -> None:
    secret = server.create_key(Scope.ADMIN)
    refused = patchbay("adapters", "list", "--url", server.url)
    assert refused.exit_code == 1
    assert "needs an API key" in refused.stderr
    assert patchbay("adapters", "list", "--url", server.url, "--api-key", secret).exit_code == 0
    env = {"PATCHBAY_URL": server.url, "PATCHBAY_API_KEY": secret}
    assert patchbay("adapters", "list", env=env).exit_code == 0


def test_a_key_without_the_scope_is_refused(patchbay: Patchbay, server: Running) -> None:
    secret = server.create_key(Scope.INFER)
    result = patchbay("adapters", "list", "--url", server.url, "--api-key", secret)
    assert result.exit_code == 1
    assert "has no scope 'adapters:read'" in result.stderr


def test_a_refused_upload_says_why_and_not_that_the_connection_broke(
    patchbay: Patchbay, server: Running, adapter: Path
) -> None:
    server.create_key(Scope.ADMIN)
    with (adapter / "adapter_model.safetensors").open("ab") as weights:
        weights.truncate(64 * 2**20)
    result = patchbay("adapters", "push", str(adapter), "--url", server.url)
    assert result.exit_code == 1
    assert "needs an API key" in result.stderr
