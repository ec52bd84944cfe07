"""Web pages of other origins: which may call, and that a preflight needs no API key."""

from __future__ import annotations

import httpx
import pytest

from server.access.scope import Scope
from tests.server.opened import CHAT, Opened, Opening

PAGE = "https://app.example.com"
LOOPBACK = [
    "http://localhost:3000",
    "http://localhost",
    "http://127.0.0.1:5173",
    "https://localhost:8443",
    "http://[::1]:1",
]
FOREIGN = [PAGE, "null", "http://localhost.example.com", "http://127.0.0.1.example.com:80", "http://10.0.0.1:3000"]
ROUTES = [CHAT, "/v1/models", "/v1/files", "/v1/adapters/sql/versions", "/health", "/nowhere"]
ORIGIN = "access-control-allow-origin"


async def preflight(opened: Opened, path: str, origin: str, method: str = "POST") -> httpx.Response:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization,content-type"}
    return await opened.client.options(path, headers={"Origin": origin, **asked})


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("origin", LOOPBACK)
async def test_a_page_on_a_loopback_address_may_call_every_route(opened: Opened, path: str, origin: str) -> None:
    response = await preflight(opened, path, origin)
    assert (response.status_code, response.headers[ORIGIN]) == (200, origin)
    assert "authorization" in response.headers["access-control-allow-headers"]


@pytest.mark.parametrize("origin", FOREIGN)
async def test_no_other_page_may_call_unless_the_operator_names_its_origin(opened: Opened, origin: str) -> None:
    assert (await preflight(opened, CHAT, origin)).status_code == 400
    response = await opened.client.get("/v1/models", headers={"Origin": origin})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "insufficient_scope")
    assert "--allowed-origins" in response.json()["error"]["message"]
    assert ORIGIN not in response.headers


@pytest.mark.parametrize("origins", [(PAGE,), (f'["{PAGE}", "https://b.example.com"]',), ('["*"]',), ("*",)])
async def test_pages_of_the_named_origins_may_call(opening: Opening, origins: tuple[str, ...]) -> None:
    async with opening(allowed_origins=origins) as opened:
        for path in ROUTES:
            assert (await preflight(opened, path, PAGE)).status_code == 200
        answer = await opened.client.post(CHAT, json={"model": "base"}, headers={"Origin": PAGE})
        assert answer.headers[ORIGIN] in {PAGE, "*"}
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_named_origins_replace_the_loopback_addresses(opening: Opening) -> None:
    async with opening(allowed_origins=(PAGE,)) as opened:
        assert (await preflight(opened, CHAT, LOOPBACK[0])).status_code == 400


async def test_methods_headers_and_credentials_are_as_the_operator_says(opening: Opening) -> None:
    settings = {"allowed_methods": ("GET",), "allowed_headers": ("authorization",), "allow_credentials": True}
    async with opening(allowed_origins=(PAGE,), **settings) as opened:
        assert (await preflight(opened, "/v1/models", PAGE)).status_code == 400
        allowed = await preflight(opened, "/v1/models", PAGE, method="GET")
        assert allowed.status_code == 200
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        response = await opened.client.get("/v1/models", headers={"Origin": PAGE})
        assert response.headers["access-control-allow-credentials"] == "true"


async def test_a_preflight_is_answered_without_a_key_and_a_refusal_can_be_read_by_the_page(opened: Opened) -> None:
    await opened.state.keys.create("ops", [Scope.ADMIN])
    assert (await preflight(opened, CHAT, LOOPBACK[0])).status_code == 200
    refused = await opened.client.post(CHAT, json={"model": "base"}, headers={"Origin": LOOPBACK[0]})
    assert (refused.status_code, refused.headers[ORIGIN]) == (401, LOOPBACK[0])


async def test_a_stream_reaches_the_page(opened: Opened) -> None:
    body = {"model": "base", "stream": True, "max_tokens": 3}
    async with opened.client.stream("POST", CHAT, json=body, headers={"Origin": LOOPBACK[0]}) as response:
        assert response.headers[ORIGIN] == LOOPBACK[0]
        assert "[DONE]" in "".join([piece async for piece in response.aiter_text()])


WRITES = [
    ("POST", "/v1/adapters/sql/versions"),
    ("POST", "/v1/adapters/sql/rollback"),
    ("POST", "/v1/adapters/sql/versions/1/unload"),
    ("DELETE", "/v1/adapters/sql"),
    ("POST", CHAT),
]
FROM_A_PAGE = [
    {"Origin": PAGE},
    {"Origin": "null"},
    {"Host": "evil.example:8000"},
    {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
]


@pytest.mark.parametrize("headers", FROM_A_PAGE)
@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_a_server_without_keys_takes_no_write_from_a_page(
    opened: Opened, method: str, path: str, headers: dict[str, str]
) -> None:
    await opened.publish("sql")
    await opened.publish("sql", 2)
    response = await opened.client.request(method, path, headers=headers, files={"a": ("adapter_config.json", b"{}")})
    assert response.status_code == 403
    assert opened.state.registry.catalog.adapter("sql").aliases["stable"].version == 1


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "a.localhost"]
)
async def test_every_loopback_name_is_answered(opened: Opened, host: str) -> None:
    assert (await opened.client.get("/v1/models", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "10.0.0.1:8000", "localhost.evil.example", "127.0.0.1.evil.example", "x@y"]
)
async def test_no_other_name_is_answered_without_keys(opened: Opened, host: str) -> None:
    response = await opened.client.get("/v1/adapters", headers={"Host": host})
    assert (response.status_code, "--allow-anonymous" in response.text) == (403, True)
    assert (await opened.client.get("/health", headers={"Host": host})).status_code == 200
    assert (await opened.client.get("/ready", headers={"Host": host})).status_code == 200


async def test_the_servers_own_pages_and_links_to_them_work(opened: Opened) -> None:
    own = {"Host": "localhost:8000", "Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}
    assert (await opened.client.get("/v1/models", headers=own)).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert (await opened.client.get("/docs", headers=link)).status_code == 200


async def test_an_operator_may_serve_every_name_without_keys(opening: Opening) -> None:
    async with opening(allow_anonymous=True) as opened:
        assert (await opened.client.get("/v1/models", headers={"Host": "box.example"})).status_code == 200
        assert (await opened.client.get("/v1/models", headers={"Origin": PAGE})).status_code == 403


async def test_with_keys_the_key_decides_and_not_the_page(opened: Opened) -> None:
    _, secret = await opened.state.keys.create("page", [Scope.INFER])
    headers = {"Authorization": f"Bearer {secret}", "Origin": PAGE, "Host": "box.example"}
    assert (await opened.client.get("/v1/models", headers=headers)).status_code == 200
