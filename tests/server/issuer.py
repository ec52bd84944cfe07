"""An OpenID Connect issuer over HTTP: publishes its keys, signs tokens, and misbehaves where a test wants it to."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry, serialize_compact
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

AUDIENCE = "patchbay"
DOCUMENT = "/.well-known/openid-configuration"
KEYS = "/keys"


def make_key(key_id: str, kind: str = "EC", size: Any = "P-256") -> Key:
    """Make a key pair; the default is the kind that takes least time."""
    types: dict[str, Any] = {"EC": ECKey, "RSA": RSAKey, "OKP": OKPKey}
    made: Key = types[kind].generate_key(size, {"kid": key_id, "use": "sig"})
    return made


def encode(part: Any) -> str:
    """Return a part of a token: JSON, or bytes as they are, in base64url."""
    content = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Issuer:
    """An ASGI app. ``url`` is set once it listens.

    Attributes:
        keys: the key pairs whose public halves it publishes; the first one signs.
        document: fields that replace those of its configuration.
        answers: responses in place of its own, by path.
        requested: the paths that were requested.
    """

    def __init__(self) -> None:
        self.url = ""
        self.keys: list[Key] = [make_key("first")]
        self.document: dict[str, Any] = {}
        self.answers: dict[str, Response] = {}
        self.requested: list[str] = []

    @property
    def settings(self) -> dict[str, str]:
        """Settings of a server that takes its tokens."""
        return {"oidc_issuer_url": self.url, "oidc_audience": AUDIENCE}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.requested.append(path)
        own = {
            DOCUMENT: {"issuer": self.url, "jwks_uri": f"{self.url}{KEYS}"} | self.document,
            KEYS: {"keys": [key.as_dict(private=False) for key in self.keys]},
        }
        response = self.answers.get(path) or JSONResponse(own.get(path), 200 if path in own else 404)
        await response(scope, receive, send)

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Return the claims of a token that is valid for five minutes, without those that are None in ``changed``."""
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ada",
            "exp": int(time.time()) + 300,
            "project": "acme",
            "scope": "infer",
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self,
        *,
        key: Key | None = None,
        algorithm: str = "ES256",
        header: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """Return a signed token with ``claims``; fields of its header that are None in ``header`` are absent."""
        return self.signed(json.dumps(self.claims(**claims)).encode(), key=key, algorithm=algorithm, header=header)

    def signed(
        self,
        content: bytes,
        *,
        key: Key | None = None,
        algorithm: str = "ES256",
        header: dict[str, Any] | None = None,
    ) -> str:
        """Return a token that holds ``content``."""
        signing = key or self.keys[0]
        fields = {"alg": algorithm, "kid": signing.kid, **(header or {})}
        present = {name: value for name, value in fields.items() if value is not None}
        registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        return serialize_compact(present, content, signing, registry=registry)
