"""The keys of an issuer: read over HTTP, kept while it is away, and read again as they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response
from structlog.testing import capture_logs

from server.access import issuer_keys
from server.access.issuer_keys import MAX_AGE_S, MAX_BYTES, REFRESH_S, RETRY_S, IssuerKeys
from server.access.issuer_url import check_issuer_url
from tests.process_clock import ProcessClock
from tests.server.issuer import DOCUMENT, KEYS, Issuer, make_key
from tests.until import Until


@pytest.fixture
def clock() -> ProcessClock:
    return ProcessClock()


@pytest.fixture
async def keys(issuer: Issuer, clock: ProcessClock) -> AsyncIterator[IssuerKeys]:
    async with httpx.AsyncClient(verify=False, trust_env=False) as http:  # reading certificates takes long
        yield IssuerKeys(issuer.url, http, clock=lambda: clock.now_s)


async def failure_of(keys: IssuerKeys) -> str:
    """Let the keys be read, which must fail, and return the reason in the log."""
    with capture_logs() as lines:
        await keys.refresh_if_due()
    (line,) = lines
    assert line["log_level"] == "warning"
    reason: str = line["reason"]
    return reason


async def test_a_published_key_is_found_by_its_id_and_algorithm(issuer: Issuer, keys: IssuerKeys) -> None:
    assert not keys.are_usable
    await keys.refresh_if_due()
    assert keys.are_usable
    found = keys.find("first", "ES256")
    assert found is not None
    assert not found.is_private
    assert [keys.find("first", "RS256"), keys.find("first", "ES384"), keys.find("second", "ES256")] == [None] * 3
    assert issuer.requested == [DOCUMENT, KEYS]


async def test_a_token_without_a_key_id_means_the_only_key_of_its_kind(issuer: Issuer, keys: IssuerKeys) -> None:
    issuer.keys.append(make_key("other", "OKP", "Ed25519"))
    await keys.refresh_if_due()
    found = keys.find(None, "ES256")
    assert found is not None
    assert found.kid == "first"


async def test_of_several_keys_none_is_guessed(issuer: Issuer, keys: IssuerKeys) -> None:
    issuer.keys.append(make_key("second"))
    await keys.refresh_if_due()
    assert keys.find(None, "ES256") is None


async def test_keys_are_read_again_after_ten_seconds_at_the_earliest(
    issuer: Issuer, keys: IssuerKeys, clock: ProcessClock
) -> None:
    await asyncio.gather(*(keys.refresh_if_due() for _ in range(20)))
    clock.now_s += RETRY_S - 0.1
    await keys.refresh_if_due()
    assert len(issuer.requested) == 2
    clock.now_s += 0.1
    await keys.refresh_if_due()
    assert len(issuer.requested) == 4


async def test_keys_are_read_at_an_interval(
    issuer: Issuer, keys: IssuerKeys, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "REFRESH_S", 0.01)
    following = asyncio.create_task(keys.follow())
    await until(lambda: keys.are_usable)
    issuer.keys = [make_key("second")]
    await until(lambda: keys.find("second", "ES256") is not None)
    assert keys.find("first", "ES256") is None
    assert keys.generation == 2
    following.cancel()


async def test_keys_stay_in_use_for_a_day_while_the_issuer_is_away(
    issuer: Issuer, keys: IssuerKeys, clock: ProcessClock
) -> None:
    await keys.refresh_if_due()
    issuer.answers[DOCUMENT] = Response(status_code=502)
    clock.now_s += MAX_AGE_S - 1
    assert "502" in await failure_of(keys)
    assert keys.find("first", "ES256") is not None
    clock.now_s += 1
    assert not keys.are_usable
    assert keys.find("first", "ES256") is None


async def test_an_outage_is_logged_once_and_so_is_its_end(
    issuer: Issuer, keys: IssuerKeys, clock: ProcessClock
) -> None:
    issuer.answers[KEYS] = Response(status_code=500)
    with capture_logs() as lines:
        for _ in range(3):
            await keys.refresh_if_due()
            clock.now_s += RETRY_S
        issuer.answers.clear()
        for _ in range(3):
            await keys.refresh_if_due()
            clock.now_s += REFRESH_S
    assert [line["log_level"] for line in lines] == ["warning", "info"]
    assert "refused until it answers" in lines[0]["event"]
    assert lines[1]["keys"] == 1


async def test_an_issuer_that_does_not_listen_is_away(clock: ProcessClock) -> None:
    async with httpx.AsyncClient(verify=False, trust_env=False) as http:  # reading certificates takes long
        keys = IssuerKeys("http://127.0.0.1:9", http, clock=lambda: clock.now_s)
        assert await failure_of(keys)
    assert not keys.are_usable


async def test_an_issuer_that_does_not_answer_is_left(keys: IssuerKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(3600)

    monkeypatch.setattr(issuer_keys, "TIMEOUT_S", 0.01)
    monkeypatch.setattr(httpx.AsyncClient, "send", hang)
    assert "no answer within" in await failure_of(keys)


@pytest.mark.parametrize("path", [DOCUMENT, KEYS])
async def test_a_redirect_is_not_followed(issuer: Issuer, keys: IssuerKeys, path: str) -> None:
    issuer.answers[path] = RedirectResponse(f"{issuer.url}/elsewhere")
    assert "status 307; redirects are not followed" in await failure_of(keys)
    assert "/elsewhere" not in issuer.requested
    assert not keys.are_usable


@pytest.mark.parametrize("path", [DOCUMENT, KEYS])
async def test_no_more_than_the_largest_document_is_read(issuer: Issuer, keys: IssuerKeys, path: str) -> None:
    issuer.answers[path] = Response(b" " * 8 * MAX_BYTES, media_type="application/json")
    assert f"more than {MAX_BYTES} bytes" in await failure_of(keys)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"1", b"[" * 100_000, b"\xff\xfe", b'{"keys": 1}', b"{}"])
@pytest.mark.parametrize("path", [DOCUMENT, KEYS])
async def test_a_document_of_another_form_is_refused(
    issuer: Issuer, keys: IssuerKeys, path: str, content: bytes
) -> None:
    issuer.answers[path] = Response(content, media_type="application/json")
    assert await failure_of(keys)
    assert not keys.are_usable


@pytest.mark.parametrize("name", ["http://127.0.0.1", "https://elsewhere.example", "", None, 1])
async def test_an_issuer_that_calls_itself_otherwise_is_refused(issuer: Issuer, keys: IssuerKeys, name: object) -> None:
    issuer.document["issuer"] = name
    assert "--oidc-issuer-url" in await failure_of(keys)
    assert issuer.requested == [DOCUMENT]


@pytest.mark.parametrize("address", ["http://elsewhere.example/keys", "file:///etc/passwd", "/keys", "", None, 7])
async def test_keys_are_not_read_without_encryption_from_another_machine(
    issuer: Issuer, keys: IssuerKeys, address: object
) -> None:
    issuer.document["jwks_uri"] = address
    assert "jwks_uri" in await failure_of(keys)


UNFIT: list[Any] = [
    {"kty": "oct", "kid": "first", "k": "c2VjcmV0"},
    {"kty": "AKP", "kid": "first", "alg": "ML-DSA-44", "pub": "AA"},
    {"kty": "EC", "kid": "first", "crv": "P-256", "x": "AA", "y": "AA"},
    {"kty": "EC", "kid": "first", "crv": "P-1", "x": "AA", "y": "AA"},
    {"kty": "EC", "kid": ["first"], "crv": "P-256"},
    {"kty": "RSA", "kid": "first", "n": "AQAB", "e": "AQAB"},
    {"kty": "RSA", "kid": "first", "n": "?", "e": None},
    {"kty": ["RSA"]},
    {},
    None,
    "RSA",
    7,
]


@pytest.mark.filterwarnings("ignore:Key size should be")
@pytest.mark.parametrize("unfit", UNFIT)
async def test_a_key_that_cannot_verify_tokens_is_left_out(issuer: Issuer, keys: IssuerKeys, unfit: Any) -> None:
    published = [unfit, make_key("second").as_dict(private=False)]
    issuer.answers[KEYS] = JSONResponse({"keys": published})
    await keys.refresh_if_due()
    assert keys.find("second", "ES256") is not None
    for algorithm in issuer_keys.ALGORITHMS:
        assert keys.find("first", algorithm) is None


async def test_a_key_for_encryption_verifies_no_token(issuer: Issuer, keys: IssuerKeys) -> None:
    issuer.answers[KEYS] = JSONResponse({"keys": [make_key("first").as_dict(private=False) | {"use": "enc"}]})
    assert "none of the 1 keys" in await failure_of(keys)


@pytest.mark.filterwarnings("ignore:Key size should be")
async def test_an_rsa_key_of_less_than_2048_bits_verifies_no_token(issuer: Issuer, keys: IssuerKeys) -> None:
    issuer.keys = [make_key("first", "RSA", 1024)]
    assert "none of the 1 keys" in await failure_of(keys)


@pytest.mark.parametrize(
    "url",
    [
        "https://id.example.com",
        "https://id.example.com/realms/a/",
        "http://127.0.0.1:8080",
        "http://localhost/realms/a",
    ],
)
def test_an_issuer_is_reached_by_https_or_on_a_loopback_address(url: str) -> None:
    assert check_issuer_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "id.example.com",
        "http://id.example.com",
        "http://localhost.example.com",
        "http://user@localhost",
        "https://user:password@id.example.com",
        "https://id.example.com?a=b",
        "https://id.example.com#a",
        "https://id.example.com:port",
        "https://[::1",
        "https://",
        "https://id.example.com/a b",
        "https://id.example.com/\n",
        "file:///etc/passwd",
    ],
)
def test_any_other_url_is_no_issuer(url: str) -> None:
    with pytest.raises(ValueError, match="https://"):
        check_issuer_url(url)
