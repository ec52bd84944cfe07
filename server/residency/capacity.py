"""What the residents of an engine take: their number and their bytes, in all and by project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from adapters.versions import Version
from server.fair_shares import Holdings


@dataclass(frozen=True, slots=True)
class ProjectBytes:
    """The project that a version belongs to, and how many bytes its residents may have; None: any number."""

    project: str
    limit: int | None


@dataclass(eq=False)
class Capacity:
    """Limits on residents, and what is reserved of them.

    Args:
        residents: residents at once; the engine's own limit is higher.
        max_bytes: limit on the size of all residents' files; a larger version is resident alone.
        project_bytes: called at each reservation, so that the limit is current. A version larger than the limit of
            its project is the only resident of that project.
    """

    residents: int
    max_bytes: int
    project_bytes: Callable[[Version], ProjectBytes]
    count: int = field(default=0, init=False)
    bytes: int = field(default=0, init=False)
    _projects: dict[tuple[int, str], str] = field(default_factory=dict, init=False)  # by the key of a version
    _held: Holdings[str] = field(default_factory=Holdings, init=False)  # bytes

    def has_room(self, version: Version) -> bool:
        """Whether ``version`` can be reserved now."""
        fits = self.bytes + version.size_bytes <= self.max_bytes or not self.count
        return fits and self.count < self.residents and self.crowded_project(version) is None

    def crowded_project(self, version: Version) -> str | None:
        """Return the project of ``version`` if a resident of that project must go first; None: any may go."""
        of = self.project_bytes(version)
        held = self._held[of.project]
        is_over = of.limit is not None and held > 0 and held + version.size_bytes > of.limit
        return of.project if is_over else None

    def project_of(self, version: Version) -> str:
        """Return the project of a reserved version, which may be deleted by now."""
        return self._projects[version.key]

    def reserve(self, version: Version) -> None:
        """Count ``version`` as resident."""
        project = self._projects[version.key] = self.project_bytes(version).project
        self._held.add(project, version.size_bytes)
        self.count += 1
        self.bytes += version.size_bytes

    def release(self, version: Version) -> None:
        """Count ``version`` as resident no more."""
        self._held.add(self._projects.pop(version.key), -version.size_bytes)
        self.count -= 1
        self.bytes -= version.size_bytes
