"""Versions that passed the checks and made the engine compute NaN all the same: requests for them are refused."""

from adapters.versions import Version
from server.errors import AdapterQuarantined


class Quarantine:
    """The quarantined versions of one process. A quarantine outlives engines and ends with the process."""

    def __init__(self) -> None:
        self._ids: set[int] = set()

    def add(self, version: Version) -> None:
        self._ids.add(version.id)

    def __contains__(self, version: Version) -> bool:
        return version.id in self._ids

    @staticmethod
    def refusal(version: Version) -> AdapterQuarantined:
        """Return the error for requests for ``version``."""
        return AdapterQuarantined(
            f"{version.name} is quarantined: under it the engine computed NaN. Roll its alias back or delete it, and "
            "publish a version that was trained with a lower learning rate; the quarantine ends with the server",
            param="model",
        )
