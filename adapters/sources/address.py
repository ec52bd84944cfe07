"""Sources as callers write them: ``hf://org/repo[/folder][@revision]``, ``file:///dir``, ``s3://bucket/prefix``."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from adapters.errors import SourceForbidden
from adapters.sources.bucket import BucketSource
from adapters.sources.directory import DirectorySource
from adapters.sources.hub import HubSource
from adapters.sources.rules import BUCKET_SCHEMES, SourceRules
from adapters.sources.source import Source

_HUB: Final = re.compile(
    r"(?P<repo>[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95})(?P<folder>(?:/[\w-][\w.-]{0,95}){0,8})"
    r"(?:@(?P<revision>[\w-][\w./-]{0,199}))?",
    re.A,
)
_FORMS: Final = "hf://org/repo[/folder][@revision], file:///directory, s3://bucket/prefix, gs://bucket/prefix"


def is_hub_id(text: str) -> bool:
    """Whether ``text`` is ``org/repo[/folder][@revision]``."""
    return ".." not in text and _HUB.fullmatch(text) is not None


def parse_source(text: str, rules: SourceRules) -> Source:
    """Return the source ``text``, SourceForbidden if malformed; its ``fetch`` checks whether ``rules`` allow it."""
    scheme, _, rest = text.partition("://")
    if scheme == "hf" and is_hub_id(rest) and (found := _HUB.fullmatch(rest)):
        folder = found["folder"].lstrip("/")
        return HubSource(
            found["repo"], found["revision"], folder=folder, endpoint=rules.hub_endpoint, token=rules.hub_token
        )
    if scheme == "file" and rest.startswith("/") and "\0" not in (path := unquote(rest)):
        return DirectorySource(Path(path), rules.directories)
    if scheme in BUCKET_SCHEMES:
        return BucketSource(text, rules.buckets)
    raise SourceForbidden(f"cannot read from '{text[:200]}': write one of {_FORMS}", param="source")
