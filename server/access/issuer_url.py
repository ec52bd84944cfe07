"""URLs of an issuer of bearer tokens. What they answer decides who may call, so no other machine may change it."""

from urllib.parse import urlsplit

from server.loopback import is_loopback


def check_issuer_url(url: str) -> str:
    """Return ``url`` if it can be the identifier of an issuer.

    https://openid.net/specs/openid-connect-discovery-1_0.html#IssuerDiscovery

    Raises:
        ValueError: it has a query or a fragment, or ``is_protected`` is False for it.
    """
    if not is_protected(url) or "?" in url or "#" in url:
        raise ValueError("an issuer is an https:// URL without query and fragment, or http:// on a loopback address")
    return url


def is_protected(url: str) -> bool:
    """Whether ``url`` is an https URL, or an http URL of this machine."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        has_port = parts.port is None or parts.port > 0  # a port that is no number raises ValueError here
    except ValueError:
        return False
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.netloc))
    return is_safe and has_port and bool(parts.hostname) and "@" not in parts.netloc
