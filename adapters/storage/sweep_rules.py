"""Which blobs may be removed: those of versions that were deleted, and the few that a crash leaves.

A registry that never knew a blob cannot decide that it is an orphan: a server with an empty database, a wrong
``--database-url`` or a bucket of another installation once removed every blob there.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

import structlog

from adapters.storage.orphan_ages import OrphanAges

log = structlog.get_logger(__name__)

OWNER: Final = "blobs-owner"
"""Name of a store's mark: a file or an object with the id of the installation whose blobs it holds."""
UNKNOWN_OWNER: Final = "unknown"
FEW: Final = 10
SHARE: Final = 5
"""At most ``FEW`` blobs, or one of ``SHARE``, are removed in a sweep that no registry row ever named."""
UNKNOWN_GRACE_S: Final = 7 * 86400.0
"""How long sweeps see them before: a database restored without their rows can be rolled forward for as long."""


@dataclass(frozen=True, slots=True)
class SweepRules:
    """What the registry says: digests of ``living`` versions, and of all that it has ever ``known``."""

    living: frozenset[str]
    known: frozenset[str]

    def orphans(self, stored: Set[str], store: str) -> set[str]:
        """Return those of the ``stored`` digests that may be removed from ``store``."""
        deleted = (self.known & stored) - self.living
        unknown = set(stored) - self.known - self.living
        if len(unknown) > max(FEW, len(stored) // SHARE):
            log.error(
                "many blobs belong to no version that this database has known; none of them is swept: was the database "
                "restored from a backup? publish what is missing, or remove the blobs by hand",
                store=store,
                unknown=len(unknown),
                stored=len(stored),
            )
            return set(deleted)
        return unknown | deleted


class BlobAges:
    """How long the sweeps of one store have seen its orphans; see ``OrphanAges``."""

    def __init__(self) -> None:
        self._deleted, self._unknown = OrphanAges(), OrphanAges()

    def old(self, orphans: Mapping[str, object], known: Set[str], grace_s: float) -> set[str]:
        """Return the ``orphans`` (digest → stats) that are old enough; those not ``known`` need ``UNKNOWN_GRACE_S``."""
        deleted = {digest: stats for digest, stats in orphans.items() if digest in known}
        unknown = {digest: stats for digest, stats in orphans.items() if digest not in known}
        return self._deleted.old(deleted, grace_s) | self._unknown.old(unknown, max(grace_s, UNKNOWN_GRACE_S))


def may_be_ours(stored: Set[str], known: Set[str]) -> bool:
    """Whether a store without a mark can belong to the registry that has ``known`` these digests.

    At least half of it: the shipped adapters have the same digests everywhere.
    """
    return 2 * len(stored & known) >= len(stored)
