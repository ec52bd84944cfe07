"""Versions that passed the checks and harmed the engine all the same: requests for them are refused."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Final

import structlog

from adapters.errors import NotFound
from adapters.registry.registry import Registry
from adapters.versions import Version
from server.errors import AdapterQuarantined

log = structlog.get_logger(__name__)


class QuarantineReason(StrEnum):
    """What a version did to the engine."""

    NAN = "nan"
    DEATHS = "engine_deaths"


_TEXTS: Final[Mapping[str, str]] = {
    QuarantineReason.NAN: "under it the engine computed NaN. Roll its alias back or delete it, and publish a version "
    "that was trained with a lower learning rate",
    QuarantineReason.DEATHS: "the engine died twice while it loaded it. Roll its alias back or delete it",
}


class Quarantine:
    """The quarantined versions. A quarantine holds in this process at once; then it is stored, for all servers.

    Args:
        stored: returns why a version is quarantined in the registry; None: it is not.
    """

    def __init__(self, stored: Callable[[Version], str | None] = lambda _: None) -> None:
        self._stored = stored
        self._unstored: dict[tuple[int, str], tuple[Version, QuarantineReason]] = {}
        self._storing = asyncio.Lock()  # a quarantine that was just lifted must not be stored behind it

    def add(self, version: Version, reason: QuarantineReason) -> None:
        log.error("quarantined", version=version.name, reason=reason)
        self._unstored[version.key] = version, reason

    def __contains__(self, version: Version) -> bool:
        return self.reason(version) is not None

    def reason(self, version: Version) -> str | None:
        """Return the reason of the quarantine of ``version``; None: it has none."""
        if version.key in self._unstored:
            return self._unstored[version.key][1]
        return self._stored(version)

    async def lift(self, version: Version, registry: Registry) -> Version:
        """Let requests try ``version`` again; VersionNotFound if it was deleted."""
        async with self._storing:
            self._unstored.pop(version.key, None)
            return await registry.set_quarantine(version, None)

    async def store(self, registry: Registry) -> None:
        """Write to ``registry`` what is not there yet.

        Raises:
            StorageUnavailable: the rest stays for the next call.
        """
        for version, reason in list(self._unstored.values()):
            async with self._storing:
                if version.key in self._unstored:
                    with suppress(NotFound):  # deleted meanwhile
                        await registry.set_quarantine(version, reason)
                    self._unstored.pop(version.key)

    def refusal(self, version: Version) -> AdapterQuarantined:
        """Return the error for requests for ``version``, which is quarantined."""
        text = _TEXTS.get(self.reason(version) or "", _TEXTS[QuarantineReason.NAN])
        return AdapterQuarantined(
            f"{version.name} is quarantined: {text}; `patchbay adapters unquarantine {version.name}` lets requests try "
            "it again",
            param="model",
        )
