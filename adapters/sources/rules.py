"""The places that the server may read for its callers."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.errors import SourceForbidden

BUCKET_SCHEMES: Final = ("s3", "gs", "az")

_BUCKET_URL: Final = re.compile(rf"(?:{'|'.join(BUCKET_SCHEMES)})://(?P<path>[^\s\x00-\x1f\x7f%\\?#]+)")


@dataclass(frozen=True, slots=True)
class SourceRules:
    """The places that the server may read for its callers; SourceForbidden if a bucket's URL is not plain."""

    directories: tuple[Path, ...] = ()
    buckets: tuple[str, ...] = ()
    """URL prefixes such as ``s3://bucket/adapters``."""
    hub_endpoint: str | None = None
    """None: huggingface.co."""
    hub_token: str | None = None

    def __post_init__(self) -> None:
        for url in self.buckets:
            plain_bucket_url(url)


def plain_bucket_url(url: str) -> str:
    """Return ``url`` without a final slash, if the object store will not rewrite it.

    The store unescapes a URL and resolves its dots after the URL was compared with a rule. So ``%``, ``\\``, ``?``,
    ``#``, white space, and segments that are empty, ``.`` or ``..`` are refused.

    Raises:
        SourceForbidden: the URL is of another form.
    """
    url = url.removesuffix("/")
    found = _BUCKET_URL.fullmatch(url)
    if found is None or not {"", ".", ".."}.isdisjoint(found["path"].split("/")):
        raise SourceForbidden(
            f"{url[:200]!r} is no plain bucket URL: write {'://, '.join(BUCKET_SCHEMES)}:// with a bucket and a prefix "
            "without '%', '\\', '?', '#', white space, empty segments, '.' or '..'",
            param="source",
        )
    return url
