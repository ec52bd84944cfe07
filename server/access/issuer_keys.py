"""The keys with which an OpenID Connect issuer signs its tokens: read from the issuer, and read again as they change.

The issuer's document names the address of its keys. Both are read at an interval, and when a token names a key that is
not known. https://openid.net/specs/openid-connect-discovery-1_0.html, https://www.rfc-editor.org/rfc/rfc7517
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import JWKRegistry, Key, RSAKey
from joserfc.jws import JWSRegistry

from server.access.issuer_url import is_protected

log = structlog.get_logger(__name__)

REFRESH_S: Final = 300.0
"""How often the keys are read; a key that the issuer withdraws is accepted for as long."""
RETRY_S: Final = 10.0
"""Least time between two attempts, so that tokens with made-up keys make no flood of requests to the issuer."""
MAX_AGE_S: Final = 24 * 3600.0
"""For how long keys are used while the issuer cannot be read."""
TIMEOUT_S: Final = 5.0
"""What an attempt may take, both documents together."""
MAX_BYTES: Final = 256 * 2**10
"""Largest document that is read."""
MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048

ALGORITHMS: Final = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "Ed448")
)
"""Signatures by key pairs. With ``none`` or HS256 every reader of the public keys could make tokens."""
_KEY_TYPES: Final = ("RSA", "EC", "OKP")
_PUBLIC: Final = ("kty", "kid", "alg", "use", "key_ops", "n", "e", "crv", "x", "y")


class IssuerUnusable(ValueError):
    """What the issuer answers cannot be used."""


class SignatureAlgorithms(JWSRegistry):
    """The algorithms in ``ALGORITHMS``. Unknown fields of a token's header are ignored, as RFC 7515 says."""

    max_header_length = 8192

    def __init__(self) -> None:
        super().__init__(algorithms=ALGORITHMS, strict_check_header=False)

    def get_alg(self, name: str) -> Any:
        """Return the algorithm; unlike the base class, without a warning that EdDSA has a new name in RFC 9864."""
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError(f"'{name}' is no algorithm of a key pair")
        return self.algorithms[name]


class IssuerKeys:
    """The keys of the issuer ``url``.

    Args:
        http: makes the requests; it follows no redirects.
        clock: monotonic time in seconds.
    """

    def __init__(self, url: str, http: httpx.AsyncClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.algorithms: Final = SignatureAlgorithms()
        self.generation = 0
        """Number of changes: what was verified with the keys of an earlier generation has to be verified again."""
        self._url = url
        self._http = http
        self._clock = clock
        self._published: list[Any] = []
        self._keys: tuple[Key, ...] = ()
        self._read_at = -math.inf
        self._tried_at = -math.inf
        self._failure: str | None = None
        """Reason of the last attempt's failure; None: it did not fail."""
        self._reading = asyncio.Lock()

    @property
    def are_usable(self) -> bool:
        """Whether keys are known, and not older than ``MAX_AGE_S``."""
        return self._clock() - self._read_at < MAX_AGE_S

    def find(self, key_id: str | None, algorithm: str) -> Key | None:
        """Return the key with the id ``key_id``; None if there is none for ``algorithm``, or if the keys are too old.

        ``key_id`` None: the only key for ``algorithm``. Several could not be told apart.
        """
        if not self.are_usable:
            return None
        fitting = [key for key in self._keys if key_id in (None, key.kid) and self._is_for(key, algorithm)]
        return fitting[0] if len(fitting) == 1 or (fitting and key_id is not None) else None

    async def follow(self) -> None:
        """Read the keys every ``REFRESH_S``, after a failure every ``RETRY_S``, until cancelled."""
        while True:
            async with self._reading:
                await self._refresh()
            await asyncio.sleep(REFRESH_S if self._failure is None else RETRY_S)

    async def refresh_if_due(self) -> None:
        """Read the keys, unless that was tried within the last ``RETRY_S``. A failure is logged."""
        async with self._reading:
            if self._clock() - self._tried_at >= RETRY_S:
                await self._refresh()

    async def _refresh(self) -> None:
        self._tried_at = self._clock()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self._take(await self._fetch())
        except TimeoutError:
            self._note(f"no answer within {TIMEOUT_S:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
            self._note(str(error) or type(error).__name__)
        else:
            self._note(None)

    def _note(self, failure: str | None) -> None:
        """Record the result of an attempt; log it if it differs from the one before in kind."""
        before, self._failure = self._failure, failure
        if failure is not None and before is None:
            effect = "its last keys stay in use" if self.are_usable else "bearer tokens are refused until it answers"
            log.warning(f"the keys of the issuer cannot be read: {effect}", issuer=self._url, reason=failure[:500])
        elif failure is None and before is not None:
            log.info("the keys of the issuer are read again", issuer=self._url, keys=len(self._keys))

    async def _fetch(self) -> list[Any]:
        """Return the keys that the issuer publishes.

        Raises:
            IssuerUnusable: a document is not what it should be.
            httpx.HTTPError: the issuer does not answer.
        """
        document = await self._get(f"{self._url.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != self._url:
            raise IssuerUnusable(
                f"the issuer calls itself {document.get('issuer')!r:.200}: give --oidc-issuer-url as it does"
            )
        address = document.get("jwks_uri")
        if not isinstance(address, str) or not is_protected(address):
            raise IssuerUnusable(f"jwks_uri is {address!r:.200}; an https:// URL is needed")
        published = (await self._get(address)).get("keys")
        if not isinstance(published, list):
            raise IssuerUnusable(f"{address} has no list of keys")
        return published

    async def _get(self, url: str) -> dict[str, Any]:
        """Return the JSON object at ``url``, of which at most ``MAX_BYTES`` are read."""
        content = bytearray()
        async with self._http.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                hint = "; redirects are not followed" if response.is_redirect else ""
                raise IssuerUnusable(f"{url} answers with status {response.status_code}{hint}")
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > MAX_BYTES:
                    raise IssuerUnusable(f"{url} answers with more than {MAX_BYTES} bytes")
        try:
            document = json.loads(content)
        except ValueError as malformed:
            raise IssuerUnusable(f"{url} does not answer with JSON: {malformed}") from malformed
        if not isinstance(document, dict):
            raise IssuerUnusable(f"{url} does not answer with a JSON object")
        return document

    def _take(self, published: list[Any]) -> None:
        """Use the keys in ``published`` from now on. Raises IssuerUnusable if none of them can verify a token."""
        if published != self._published:
            keys = tuple(key for each in published[:MAX_KEYS] if (key := _imported(each)) is not None)
            if not keys:
                raise IssuerUnusable(f"none of the {len(published)} keys of the issuer can verify a token")
            self._published, self._keys = published, keys
            self.generation += 1
        self._read_at = self._clock()

    def _is_for(self, key: Key, algorithm: str) -> bool:
        try:
            self.algorithms.get_alg(algorithm).check_key(key)
        except JoseError:
            return False
        return True


def _imported(published: Any) -> Key | None:
    """Return a published key; None for one of an unknown or a symmetric kind, for encryption, or too short."""
    if not isinstance(published, dict) or published.get("kty") not in _KEY_TYPES:
        return None
    if published.get("use", "sig") != "sig":
        return None
    try:
        key = JWKRegistry.import_key({name: published[name] for name in _PUBLIC if name in published})
        is_short = isinstance(key, RSAKey) and key.public_key.key_size < MIN_RSA_BITS
    except (JoseError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None
    return None if is_short else key
