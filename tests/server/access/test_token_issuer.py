"""Which bearer tokens are accepted, and whom they make the caller."""

from __future__ import annotations

import hmac
import json
import time
import warnings
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import Response

from server.access import token_issuer
from server.access.caller import Caller, is_subject_id, subject_id
from server.access.issuer_keys import MAX_AGE_S, RETRY_S, IssuerKeys
from server.access.scope import ALL_SCOPES, Scope
from server.access.token_issuer import LEEWAY_S, TokenIssuer
from server.errors import InvalidToken, IssuerUnavailable, TokenWithoutProject
from tests.process_clock import ProcessClock
from tests.server.issuer import AUDIENCE, DOCUMENT, KEYS, Issuer, encode, make_key

DAY_S = 86400


@pytest.fixture
def clock() -> ProcessClock:
    """Of both clocks the time that has passed: monotonic, and since the test began."""
    return ProcessClock()


@pytest.fixture
async def tokens(issuer: Issuer, clock: ProcessClock) -> AsyncIterator[TokenIssuer]:
    began = time.time()
    async with httpx.AsyncClient(verify=False, trust_env=False) as http:  # reading certificates takes long
        yield TokenIssuer(
            IssuerKeys(issuer.url, http, clock=lambda: clock.now_s),
            issuer.url,
            AUDIENCE,
            project_claim="project",
            scope_claim="scope",
            now=lambda: began + clock.now_s,
        )


async def refusal(tokens: TokenIssuer, token: str) -> str:
    """Return the message with which ``token`` is refused; it must not be remembered."""
    with pytest.raises(InvalidToken) as refused:
        await tokens.verify(token)
    assert tokens.find(token) is None
    return refused.value.message


async def test_a_token_states_who_calls_for_which_project_with_which_scopes(
    issuer: Issuer, tokens: TokenIssuer
) -> None:
    caller = await tokens.verify(issuer.token())
    assert caller == Caller(subject_id(issuer.url, "ada"), "acme", frozenset([Scope.INFER]))
    assert caller.has_token


def test_a_subject_has_an_id_that_a_shell_can_compute() -> None:
    digest = sha256(b"https://id.example.com\nada").hexdigest()
    found = subject_id("https://id.example.com", "ada")
    assert found == f"oidc:{digest[:32]}"
    assert is_subject_id(found)
    assert len(found) <= 64  # the narrowest column of the tables of accounts
    assert found != subject_id("https://other.example.com", "ada")
    assert not any(map(is_subject_id, ("abcd1234", "oidc:", f"{found}0", found.upper(), f" {found}")))


@pytest.mark.parametrize(
    ("kind", "size", "algorithm"),
    [
        *(("RSA", 2048, name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        ("EC", "P-256", "ES256"),
        ("EC", "P-384", "ES384"),
        ("EC", "P-521", "ES512"),
        ("OKP", "Ed25519", "Ed25519"),
    ],
)
async def test_signatures_by_key_pairs_are_accepted(
    issuer: Issuer, tokens: TokenIssuer, kind: str, size: Any, algorithm: str
) -> None:
    issuer.keys = [make_key("first", kind, size)]
    assert (await tokens.verify(issuer.token(algorithm=algorithm))).project == "acme"


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
async def test_the_old_name_of_ed25519_is_accepted_without_a_warning(issuer: Issuer, tokens: TokenIssuer) -> None:
    issuer.keys = [make_key("first", "OKP", "Ed25519")]
    token = issuer.token(algorithm="EdDSA")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (await tokens.verify(token)).project == "acme"


@pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["other", AUDIENCE]])
async def test_the_audience_is_a_text_or_a_list(issuer: Issuer, tokens: TokenIssuer, audience: Any) -> None:
    assert (await tokens.verify(issuer.token(aud=audience))).project == "acme"


@pytest.mark.parametrize("kind", [None, "JWT", "jwt", "at+jwt", "application/at+jwt"])
async def test_id_tokens_and_access_tokens_are_accepted(issuer: Issuer, tokens: TokenIssuer, kind: str | None) -> None:
    header = {"typ": kind, "x5t": "unknown", "nonce": "unknown"}
    assert (await tokens.verify(issuer.token(header=header))).project == "acme"


async def test_a_token_without_a_key_id_is_verified_by_the_only_key(issuer: Issuer, tokens: TokenIssuer) -> None:
    assert (await tokens.verify(issuer.token(header={"kid": None}))).project == "acme"


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("iss", {"iss": "https://other.example.com"}),
    ("iss", {"iss": ["x"]}),
    ("iss", {"iss": None}),
    ("aud", {"aud": "other"}),
    ("aud", {"aud": ["other", "another"]}),
    ("aud", {"aud": []}),
    ("aud", {"aud": {AUDIENCE: 1}}),
    ("aud", {"aud": None}),
    ("sub", {"sub": None}),
    ("sub", {"sub": ""}),
    ("sub", {"sub": 7}),
    ("exp", {"exp": None}),
    ("exp", {"exp": "tomorrow"}),
    ("exp", {"exp": True}),
    ("exp", {"exp": float("nan")}),
    ("exp", {"exp": float("inf")}),
    ("nbf", {"nbf": time.time() + DAY_S}),
    ("nbf", {"nbf": "now"}),
    ("iat", {"iat": time.time() + DAY_S}),
    ("expired", {"exp": time.time() - LEEWAY_S - 1}),
    ("expired", {"exp": 0}),
    ("expired", {"exp": -(10**400)}),
]


@pytest.mark.parametrize(("named", "claims"), WRONG)
async def test_a_wrong_or_missing_claim_is_refused_by_name(
    issuer: Issuer, tokens: TokenIssuer, named: str, claims: dict[str, Any]
) -> None:
    message = await refusal(tokens, issuer.token(**claims))
    assert named in message.partition(";")[0]
    assert issuer.url in message
    assert AUDIENCE in message


async def test_clocks_may_differ_by_half_a_minute(issuer: Issuer, tokens: TokenIssuer) -> None:
    now = time.time()
    for claims in ({"exp": now - LEEWAY_S + 10}, {"nbf": now + LEEWAY_S - 10}, {"iat": now + LEEWAY_S - 10}):
        await tokens.verify(issuer.token(**claims))


async def test_a_token_without_a_signature_is_refused(issuer: Issuer, tokens: TokenIssuer) -> None:
    for name in ("none", "None", "NONE", "nOnE", ""):
        for header in ({"alg": name, "kid": "first"}, {"alg": name}):
            token = f"{encode(header)}.{encode(issuer.claims())}."
            assert "alg" in await refusal(tokens, token)
    unsigned = f"{issuer.token().rpartition('.')[0]}."
    assert "signature" in await refusal(tokens, unsigned)


async def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(issuer: Issuer, tokens: TokenIssuer) -> None:
    issuer.keys = [make_key("first", "RSA", 2048)]
    public: Any = issuer.keys[0]
    secrets = [public.as_pem(private=False), public.as_der(private=False), json.dumps(public.as_dict()).encode()]
    for secret in secrets:
        for algorithm in ("HS256", "HS384", "HS512"):
            content = f"{encode({'alg': algorithm, 'kid': 'first'})}.{encode(issuer.claims())}"
            signature = hmac.digest(secret, content.encode(), f"sha{algorithm[2:]}")
            assert algorithm in await refusal(tokens, f"{content}.{encode(signature)}")


async def test_a_token_of_a_stranger_under_the_name_of_a_key_is_refused(issuer: Issuer, tokens: TokenIssuer) -> None:
    stranger = make_key("first")
    assert "signature" in await refusal(tokens, issuer.token(key=stranger))
    header = {"jwk": stranger.as_dict(private=False), "jku": f"{issuer.url}/strange"}
    assert "signature" in await refusal(tokens, issuer.token(key=stranger, header=header))
    assert "/strange" not in issuer.requested


async def test_other_claims_under_the_signature_of_a_token_are_refused(issuer: Issuer, tokens: TokenIssuer) -> None:
    header, _, signature = issuer.token().split(".")
    assert "signature" in await refusal(tokens, f"{header}.{encode(issuer.claims(scope='admin'))}.{signature}")


@pytest.mark.parametrize("kind", ["logout+jwt", "secevent+jwt", "dpop+jwt", 7, ["JWT"]])
async def test_what_else_an_issuer_signs_is_no_token(issuer: Issuer, tokens: TokenIssuer, kind: Any) -> None:
    _, payload, signature = issuer.token().split(".")
    token = f"{encode({'alg': 'ES256', 'kid': 'first', 'typ': kind})}.{payload}.{signature}"
    assert "typ" in await refusal(tokens, token)


@pytest.mark.parametrize("field", [{"crit": ["exp"]}, {"crit": 7}, {"crit": ["b64"], "b64": False}])
async def test_a_header_that_must_be_understood_is_not_ignored(
    issuer: Issuer, tokens: TokenIssuer, field: dict[str, Any]
) -> None:
    _, payload, signature = issuer.token().split(".")
    header = encode({"alg": "ES256", "kid": "first", **field})
    assert "signature" in await refusal(tokens, f"{header}.{payload}.{signature}")


HEADERS: list[Any] = [
    b"",
    b"?",
    b"{",
    b"[" * 50_000,
    b'{"a":' * 50_000,
    b"\xff",
    b"9" * 5000,
    None,
    7,
    "alg",
    ["alg"],
    {},
    {"alg": None},
    {"alg": ["ES256"]},
    {"alg": {"ES256": 1}},
    {"alg": "ES256", "kid": 7},
    {"alg": "ES256", "kid": ["first"]},
    {"alg": "ES256", "kid": ""},
    {"alg": "ES256", "kid": "\ud800"},
    {"alg": "ES256", "kid": "first", "b64": "x", "crit": "b64"},
    {"alg": "ES256", "kid": "first", "filling": "x" * 9000},
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
async def test_a_malformed_header_is_refused(issuer: Issuer, tokens: TokenIssuer, header: Any) -> None:
    _, payload, signature = issuer.token().split(".")
    await refusal(tokens, f"{encode(header)}.{payload}.{signature}")
    await refusal(tokens, f"{encode(header)}..")


@pytest.mark.parametrize("payload", [b"", b"[]", b"7", b"{", b"[" * 90_000, b"\xff"])
async def test_signed_bytes_that_are_no_claims_are_refused(issuer: Issuer, tokens: TokenIssuer, payload: bytes) -> None:
    assert "claims" in await refusal(tokens, issuer.signed(payload))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_a_garbled_token_is_refused(issuer: Issuer, tokens: TokenIssuer, data: st.DataObject) -> None:
    token = data.draw(st.sampled_from([issuer.token(scope="admin")]))
    parts = token.split(".")
    place = data.draw(st.integers(0, len(token)))
    garbled = data.draw(
        st.one_of(
            st.text(st.characters(max_codepoint=127), max_size=80).map(
                lambda text: token[:place] + text + token[place:]
            ),
            st.text(st.characters(max_codepoint=127), max_size=8).map(lambda text: token[:place] + text),
            st.permutations(parts).map(".".join),
            st.binary(max_size=80).map(lambda content: ".".join((parts[0], encode(content), parts[2]))),
            st.binary(max_size=96).map(lambda content: ".".join((*parts[:2], encode(content)))),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), inner, max_size=6)
                ),
            ).map(lambda header: ".".join((encode(header), *parts[1:]))),
        )
    )
    if garbled != token:
        await refusal(tokens, garbled)


@pytest.mark.parametrize("project", [None, "", "Not A Project", "a/b", 7, ["acme"], {"acme": 1}, "a" * 200])
async def test_a_token_that_names_no_project_is_refused_and_not_put_into_the_default_one(
    issuer: Issuer, tokens: TokenIssuer, project: Any
) -> None:
    token = issuer.token(project=project)
    with pytest.raises(TokenWithoutProject, match=r"claim 'project' is .*--oidc-project-claim"):
        await tokens.verify(token)
    assert tokens.find(token) is None


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("infer", {Scope.INFER}),
        ("openid  infer files profile", {Scope.INFER, Scope.FILES}),
        (["infer", "adapters:write", "offline_access"], {Scope.INFER, Scope.ADAPTERS_WRITE}),
        ("INFER infers", set()),
        ("", set()),
        ([["infer"], 7, None, {"infer": 1}], set()),
        ({"infer": True}, set()),
        (7, set()),
        (None, set()),
        ("infer admin", ALL_SCOPES),
    ],
)
async def test_scopes_that_this_server_does_not_know_are_ignored(
    issuer: Issuer, tokens: TokenIssuer, scope: Any, expected: set[Scope]
) -> None:
    assert (await tokens.verify(issuer.token(scope=scope))).scopes == expected


async def test_a_subject_may_be_any_text(issuer: Issuer, tokens: TokenIssuer) -> None:
    callers = [await tokens.verify(issuer.token(sub=name)) for name in ("a", "A", "ä\n", "\ud800", "x" * 5000)]
    assert len({caller.key_id for caller in callers}) == 5
    assert all(is_subject_id(caller.key_id or "") for caller in callers)


async def test_a_verified_token_is_remembered_until_it_expires(
    issuer: Issuer, tokens: TokenIssuer, clock: ProcessClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token()
    caller = await tokens.verify(token)
    monkeypatch.setattr(token_issuer, "deserialize_compact", None)
    assert tokens.find(token) == caller
    assert tokens.find(f"{token}x") is None
    clock.now_s += 300 + LEEWAY_S - 2
    assert tokens.find(token) == caller
    clock.now_s += 3
    assert tokens.find(token) is None


async def test_the_tokens_that_were_used_least_recently_are_forgotten_first(
    issuer: Issuer, tokens: TokenIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_issuer, "MAX_VERIFIED", 2)
    first, second, third = (issuer.token(sub=name) for name in ("a", "b", "c"))
    await tokens.verify(first)
    await tokens.verify(second)
    assert tokens.find(first) is not None
    await tokens.verify(third)
    assert [tokens.find(token) is None for token in (first, second, third)] == [False, True, False]


async def test_after_a_rotation_the_new_key_is_accepted_at_once_and_the_old_one_no_more(
    issuer: Issuer, tokens: TokenIssuer, clock: ProcessClock
) -> None:
    old = issuer.token()
    await tokens.verify(old)
    issuer.keys = [make_key("second")]
    clock.now_s += RETRY_S
    assert (await tokens.verify(issuer.token())).project == "acme"
    assert "has no key 'first'" in await refusal(tokens, old)


async def test_made_up_key_ids_make_one_request_in_ten_seconds(
    issuer: Issuer, tokens: TokenIssuer, clock: ProcessClock
) -> None:
    await tokens.verify(issuer.token())
    clock.now_s += RETRY_S
    for number in range(50):
        await refusal(tokens, issuer.token(header={"kid": f"made-up-{number}"}))
    assert issuer.requested == [DOCUMENT, KEYS] * 2


async def test_while_the_issuer_is_away_from_the_start_tokens_are_refused_as_passing(
    issuer: Issuer, tokens: TokenIssuer, clock: ProcessClock
) -> None:
    issuer.answers[DOCUMENT] = Response(status_code=503)
    token = issuer.token()
    with pytest.raises(IssuerUnavailable) as away:
        await tokens.verify(token)
    assert away.value.retry_after_s == RETRY_S
    assert "no JSON" in await refusal(tokens, "not.a.token")
    issuer.answers.clear()
    clock.now_s += RETRY_S
    assert (await tokens.verify(token)).project == "acme"


async def test_tokens_are_accepted_for_a_day_without_the_issuer(
    issuer: Issuer, tokens: TokenIssuer, clock: ProcessClock
) -> None:
    token = issuer.token(exp=time.time() + 10 * DAY_S)
    await tokens.verify(token)
    issuer.answers[DOCUMENT] = Response(status_code=503)
    clock.now_s += MAX_AGE_S - 1
    assert (await tokens.verify(issuer.token(exp=time.time() + 10 * DAY_S, sub="eve"))).project == "acme"
    assert tokens.find(token) is not None
    clock.now_s += 1
    assert tokens.find(token) is None
    with pytest.raises(IssuerUnavailable):
        await tokens.verify(token)
