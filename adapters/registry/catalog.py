"""The registry in memory: a request resolves its model name by dictionary look-ups alone."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from adapters.errors import AdapterNotFound, AliasNotFound, VersionNotFound
from adapters.names import FineTunedName, Reference
from adapters.versions import Adapter, Alias, Version

SHOWN = 5
"""How many versions or aliases an error message lists."""


class Catalog:
    """All living adapters as immutable values. Only the registry changes it, without an await in between."""

    def __init__(self) -> None:
        self._adapters: dict[str, Adapter] = {}
        self._names: list[str] = []  # sorted
        self._pinned: dict[int, Version] = {}
        self._fine_tuned: dict[str, Version] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._adapters

    def __iter__(self) -> Iterator[Adapter]:
        """All adapters, by name."""
        return (self._adapters[name] for name in list(self._names))

    def resolve(self, reference: Reference | FineTunedName) -> Version:
        """Return the version that ``reference`` means now.

        Raises:
            AdapterNotFound, AliasNotFound, VersionNotFound: the message lists existing aliases or versions.
        """
        if isinstance(reference, FineTunedName):
            return self._named(reference)
        adapter = self.adapter(reference.adapter)
        if reference.version is not None:
            return _version(adapter, reference.version)
        return adapter.versions[_alias(adapter, reference.alias).version]

    def _named(self, name: FineTunedName) -> Version:
        try:
            return self._fine_tuned[name.text]
        except KeyError:
            raise AdapterNotFound(
                f"no version is named '{name}', or it was deleted; list the models to see which exist", param="model"
            ) from None

    def adapter(self, name: str) -> Adapter:
        """Return the adapter called ``name``.

        Raises:
            AdapterNotFound: there is none.
        """
        try:
            return self._adapters[name]
        except KeyError:
            raise AdapterNotFound(
                f"no adapter is named '{name}'; list the adapters to see which exist", param="model"
            ) from None

    def alias(self, name: str, alias: str) -> Alias:
        """Return the alias ``alias`` of the adapter ``name``.

        Raises:
            AdapterNotFound, AliasNotFound: the message lists existing aliases.
        """
        return _alias(self.adapter(name), alias)

    def adapters(self, after: str | None = None, limit: int = 100) -> tuple[list[Adapter], bool]:
        """Return up to ``limit`` adapters whose names sort behind ``after``, and whether more follow.

        ``after`` may be deleted: paging continues from its place in the order.
        """
        start = 0 if after is None else bisect_right(self._names, after)
        names = self._names[start : start + limit]
        return [self._adapters[name] for name in names], start + limit < len(self._names)

    def versions(self, adapter: str, after: int | None = None, limit: int = 100) -> tuple[list[Version], bool]:
        """Return up to ``limit`` versions numbered above ``after``, oldest first, and whether more follow.

        Raises:
            AdapterNotFound: no adapter of that name.
        """
        living = self.adapter(adapter).versions
        numbers = list(living)
        start = 0 if after is None else bisect_right(numbers, after)
        return [living[number] for number in numbers[start : start + limit]], start + limit < len(numbers)

    def version(self, name: str, number: int) -> Version:
        """Return version ``number`` of the adapter ``name``.

        Raises:
            AdapterNotFound, VersionNotFound: the message lists existing versions.
        """
        return _version(self.adapter(name), number)

    def is_living(self, version: Version) -> bool:
        """True unless ``version`` was deleted since."""
        adapter = self._adapters.get(version.adapter)
        return adapter is not None and version.number in adapter.versions

    def is_pinned(self, version: Version) -> bool:
        """True while ``version`` must stay resident; ``version.is_pinned`` may be out of date."""
        return version.id in self._pinned

    def pinned(self) -> list[Version]:
        """Return the versions that must stay resident."""
        return list(self._pinned.values())

    def replace(self, changed: Iterable[Adapter], deleted: Iterable[str]) -> None:
        """Store adapters that changed and remove deleted ones. Called by the registry only."""
        for name in deleted:
            self._remove(name)
        for adapter in changed:
            self._remove(adapter.name)
            self._adapters[adapter.name] = adapter
            self._names.insert(bisect_left(self._names, adapter.name), adapter.name)
            self._pinned.update((v.id, v) for v in adapter.versions.values() if v.is_pinned)
            self._fine_tuned.update((named, adapter.versions[to]) for named, to in adapter.fine_tuned.items())

    def _remove(self, name: str) -> None:
        known = self._adapters.pop(name, None)
        if known is None:
            return
        del self._names[bisect_left(self._names, name)]
        for version in known.versions.values():
            self._pinned.pop(version.id, None)
        for fine_tuned in known.fine_tuned:
            del self._fine_tuned[fine_tuned]


def _alias(adapter: Adapter, name: str) -> Alias:
    try:
        return adapter.aliases[name]
    except KeyError:
        existing = [f"'{alias.name}'" for alias in adapter.aliases.values()]
        raise AliasNotFound(
            f"adapter '{adapter.name}' has no alias '{name}'; its aliases: {_shortened(existing)}; "
            f"its versions: {_newest(adapter)}",
            param="model",
        ) from None


def _version(adapter: Adapter, number: int) -> Version:
    try:
        return adapter.versions[number]
    except KeyError:
        raise VersionNotFound(
            f"adapter '{adapter.name}' has no version {number}; its versions: {_newest(adapter)}",
            param="model",
        ) from None


def _newest(adapter: Adapter) -> str:
    return _shortened([str(number) for number in reversed(adapter.versions)])


def _shortened(items: list[str]) -> str:
    if not items:
        return "none"
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
