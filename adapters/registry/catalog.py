"""The registry in memory: a request resolves its model name by dictionary look-ups alone."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

from adapters.errors import AdapterNotFound, AliasNotFound, VersionNotFound
from adapters.names import FineTunedName, Reference, parse_reference
from adapters.rollout import Rollout
from adapters.versions import Adapter, Alias, Version

SHOWN = 5
"""How many versions or aliases an error message lists."""

Choose = Callable[[Rollout], int]


def current_version(rollout: Rollout) -> int:
    """Return the version that the alias points to; the candidate answers nothing."""
    return rollout.version


class Catalog:
    """All living adapters as immutable values. Only the registry changes it, without an await in between."""

    def __init__(self) -> None:
        self._adapters: dict[str, Adapter] = {}
        self._names: list[str] = []  # sorted
        self._pinned: dict[tuple[int, str], Version] = {}
        self._quarantined: dict[tuple[int, str], str] = {}
        self._fine_tuned: dict[str, Version] = {}
        self._lora_names: dict[str, str] = {}
        self._rollouts: dict[int, Rollout] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._adapters

    def __iter__(self) -> Iterator[Adapter]:
        return (self._adapters[name] for name in list(self._names))

    def find(
        self, model: str, may_use: Callable[[str], bool] = lambda _: True, choose: Choose = current_version
    ) -> Version:
        """Return the version that the text ``model`` means now: a lora name before any reference.

        Raises as ``parse_reference`` and ``resolve`` do; for an adapter whose name ``may_use`` refuses, as if there
        were no such adapter.
        """
        name = self._lora_names.get(model)
        reference = Reference(name) if name is not None and may_use(name) else parse_reference(model)
        if isinstance(reference, Reference) and not may_use(reference.adapter):
            raise _no_adapter(reference.adapter)
        version = self.resolve(reference, choose)
        if isinstance(reference, FineTunedName) and not may_use(version.adapter):
            raise _no_fine_tuned(reference)
        return version

    def loaded_as(self, lora_name: str) -> Adapter | None:
        """Return the adapter that was loaded under ``lora_name``, which is not its own name."""
        name = self._lora_names.get(lora_name)
        return None if name is None else self._adapters[name]

    def resolve(self, reference: Reference | FineTunedName, choose: Choose = current_version) -> Version:
        """Return the version that ``reference`` means now; raises as ``adapter``, ``alias`` and ``version`` do.

        ``choose``: returns the number of the version that answers behind an alias with an active rollout.
        """
        if isinstance(reference, FineTunedName):
            if (named := self._fine_tuned.get(reference.text)) is not None:
                return named
            raise _no_fine_tuned(reference)
        number = reference.version
        if number is None:
            alias = self.alias(reference.adapter, reference.alias)
            number = alias.version if alias.rollout is None else choose(alias.rollout)
        return self.version(reference.adapter, number)

    def get(self, name: str) -> Adapter | None:
        """Return the adapter called ``name``; None: there is none."""
        return self._adapters.get(name)

    def adapter(self, name: str, may_use: Callable[[str], bool] = lambda _: True) -> Adapter:
        """Return the adapter called ``name``; AdapterNotFound if there is none, or ``may_use`` refuses it."""
        if (adapter := self._adapters.get(name)) is not None and may_use(name):
            return adapter
        raise _no_adapter(name)

    def alias(self, name: str, alias: str) -> Alias:
        """Return the alias; AliasNotFound lists the existing ones and the versions."""
        adapter = self.adapter(name)
        if (found := adapter.aliases.get(alias)) is not None:
            return found
        raise AliasNotFound(
            f"adapter '{name}' has no alias '{alias}'; its aliases: {_shown(map(repr, adapter.aliases))}; "
            f"its versions: {_shown(map(str, reversed(adapter.versions)))}",
            param="model",
        )

    def adapters(
        self, after: str | None = None, limit: int = 100, may_use: Callable[[str], bool] = lambda _: True
    ) -> tuple[list[Adapter], bool]:
        """Return up to ``limit`` adapters whose names sort behind ``after``, and whether more follow.

        ``after`` may be deleted: paging continues from its place in the order. Names that ``may_use`` refuses are left
        out.
        """
        start = 0 if after is None else bisect_right(self._names, after)
        names = list(islice(filter(may_use, islice(self._names, start, None)), limit + 1))
        return [self._adapters[name] for name in names[:limit]], len(names) > limit

    def versions(self, adapter: str, after: int | None = None, limit: int = 100) -> tuple[list[Version], bool]:
        """Return up to ``limit`` versions numbered above ``after``, oldest first, and whether more follow."""
        living = self.adapter(adapter).versions
        numbers = list(living)
        start = 0 if after is None else bisect_right(numbers, after)
        return [living[number] for number in numbers[start : start + limit]], start + limit < len(numbers)

    def version(self, name: str, number: int) -> Version:
        """Return a version; VersionNotFound lists the existing ones."""
        living = self.adapter(name).versions
        if (found := living.get(number)) is not None:
            return found
        raise VersionNotFound(
            f"adapter '{name}' has no version {number}; its versions: {_shown(map(str, reversed(living)))}",
            param="model",
        )

    def is_living(self, version: Version) -> bool:
        adapter = self._adapters.get(version.adapter)
        found = None if adapter is None else adapter.versions.get(version.number)
        return found is not None and found.key == version.key

    def is_pinned(self, version: Version) -> bool:
        """True while ``version`` must stay resident; ``version.is_pinned`` may be out of date."""
        return version.key in self._pinned

    def quarantine_reason(self, version: Version) -> str | None:
        """Return the reason of the quarantine of ``version``, or None; ``version.quarantine`` may be out of date."""
        return self._quarantined.get(version.key)

    def pinned(self) -> list[Version]:
        return list(self._pinned.values())

    def rollouts(self) -> Mapping[int, Rollout]:
        """Return the active rollouts of all adapters by id."""
        return self._rollouts

    def candidates(self) -> list[Version]:
        """Return the candidates of the active rollouts."""
        return [self.version(rollout.adapter, rollout.candidate) for rollout in self._rollouts.values()]

    def stored_bytes(self, project: str) -> int:
        """Return the bytes of the living versions of ``project``, as they are served. Reads every adapter."""
        owned = (adapter for adapter in self if adapter.project == project)
        return sum(version.size_bytes for adapter in owned for version in adapter.versions.values())

    def replace(self, changed: Iterable[Adapter], deleted: Iterable[str]) -> None:
        """Store adapters that changed and remove deleted ones. Called by the registry only."""
        changed = list(changed)
        for name in [*deleted, *(adapter.name for adapter in changed)]:  # all first: names move between adapters
            self._remove(name)
        for adapter in changed:
            self._adapters[adapter.name] = adapter
            self._names.insert(bisect_left(self._names, adapter.name), adapter.name)
            self._pinned.update((v.key, v) for v in adapter.versions.values() if v.is_pinned)
            self._quarantined.update((v.key, v.quarantine) for v in adapter.versions.values() if v.quarantine)
            if adapter.lora_name is not None:
                self._lora_names[adapter.lora_name] = adapter.name
            self._fine_tuned.update((named, adapter.versions[to]) for named, to in adapter.fine_tuned.items())
            self._rollouts.update((each.id, each) for each in _rollouts_of(adapter))

    def _remove(self, name: str) -> None:
        known = self._adapters.pop(name, None)
        if known is None:
            return
        del self._names[bisect_left(self._names, name)]
        if known.lora_name is not None:
            del self._lora_names[known.lora_name]
        for version in known.versions.values():
            self._pinned.pop(version.key, None)
            self._quarantined.pop(version.key, None)
        for fine_tuned in known.fine_tuned:
            del self._fine_tuned[fine_tuned]
        for rollout in _rollouts_of(known):
            del self._rollouts[rollout.id]


def _rollouts_of(adapter: Adapter) -> list[Rollout]:
    return [alias.rollout for alias in adapter.aliases.values() if alias.rollout is not None]


def _no_adapter(name: str) -> AdapterNotFound:
    return AdapterNotFound(f"no adapter is named '{name}'; list the adapters to see which exist", param="model")


def _no_fine_tuned(name: FineTunedName) -> AdapterNotFound:
    return AdapterNotFound(
        f"no version is named '{name}', or it was deleted; list the models to see which exist", param="model"
    )


def _shown(names: Iterable[str]) -> str:
    items = list(names)
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return (", ".join(items[:SHOWN]) or "none") + more
