"""Versions that passed the door and broke the engine's arithmetic all the same: no request gets to them any more."""

from __future__ import annotations

from adapters.versions import Version
from server.errors import AdapterQuarantined


class Quarantine:
    """What one process has quarantined. It outlives engines, and ends with the process: versions are never changed."""

    def __init__(self) -> None:
        self._ids: set[int] = set()

    def add(self, version: Version) -> None:
        """Quarantine ``version``."""
        self._ids.add(version.id)

    def __contains__(self, version: Version) -> bool:
        return version.id in self._ids

    @staticmethod
    def refusal(version: Version) -> AdapterQuarantined:
        """Return what a request for ``version`` is answered with."""
        return AdapterQuarantined(
            f"{version.name} is quarantined: under it the engine computed NaN. Roll its alias back or delete it, and "
            "publish a version that was trained with a lower learning rate; the quarantine ends with the server",
            param="model",
        )
