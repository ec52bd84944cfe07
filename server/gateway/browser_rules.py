"""What a web page in the user's browser may send to a server without API keys.

Such a server trusts every process that reaches it, and every page that its user opens reaches it: a browser sends
multipart and empty POSTs to any address without asking first, and a page whose own name resolves to 127.0.0.1 (DNS
rebinding) can read the answers too. So the names in ``Host`` and ``Origin`` decide.
https://owasp.org/www-community/attacks/csrf
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from server.errors import Forbidden
from server.loopback import is_loopback

LOOPBACK_ORIGIN: Final = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
_LOOPBACK_PAGE: Final = re.compile(LOOPBACK_ORIGIN)


@dataclass(frozen=True, slots=True)
class BrowserRules:
    """The rules of one server.

    Attributes:
        allowed_origins: origins whose pages may call, or ``*``; without any, pages on loopback addresses.
        allow_anonymous: whether the operator serves other machines without keys, under any host name.
    """

    allowed_origins: tuple[str, ...] = ()
    allow_anonymous: bool = False

    def check(self, method: str, headers: Mapping[str, str]) -> None:
        """Check a request that needs no key.

        Raises:
            Forbidden: it names another host, or a page of another origin sends it.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        if host and not self.allow_anonymous and not is_loopback(host):
            raise Forbidden(
                f"the request names the host '{host[:80]}', and without API keys this server answers to loopback names "
                "alone: create a key with `patchbay keys create`, or start the server with --allow-anonymous"
            )
        if origin is None:
            is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"  # the page cannot read it
            if headers.get("sec-fetch-site") != "cross-site" or is_link or "*" in self.allowed_origins:
                return
        elif self._is_allowed(origin, host):
            return
        raise Forbidden(
            f"a web page of another origin ({(origin or 'not named')[:80]}) sends the request: name its origin with "
            "--allowed-origins, or create a key with `patchbay keys create`"
        )

    def _is_allowed(self, origin: str, host: str) -> bool:
        if "*" in self.allowed_origins or origin in self.allowed_origins or urlsplit(origin).netloc == host != "":
            return True
        return not self.allowed_origins and _LOOPBACK_PAGE.fullmatch(origin) is not None
