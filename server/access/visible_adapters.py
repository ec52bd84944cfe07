"""The adapters that a caller may see, and those that the caller may change: the one place that decides it."""

from dataclasses import dataclass

from adapters.errors import NameNotAllowed
from adapters.registry.catalog import Catalog, Choose, current_version
from adapters.versions import Adapter, Version
from server.access.caller import Caller
from server.errors import AdapterShared


@dataclass(frozen=True, slots=True)
class VisibleAdapters:
    """A catalog as a caller may see it.

    That is: the adapters of the caller's project and those shared with it, all with the scope ``admin``, as far as the
    patterns of the caller's key allow their names. Any other adapter is as one that does not exist.
    """

    catalog: Catalog
    caller: Caller

    def sees(self, name: str) -> bool:
        """Whether the caller may see the adapter; True where there is none."""
        if not self.caller.may_name(name):
            return False
        adapter, project = self.catalog.get(name), self.caller.seen_project
        return adapter is None or project is None or adapter.project == project or project in adapter.shared_with

    def find(self, model: str, choose: Choose = current_version) -> Version:
        """Return the version that the text ``model`` means now; raises as ``Catalog.find``."""
        return self.catalog.find(model, self.sees, choose)

    def adapter(self, name: str) -> Adapter:
        """Return the adapter; AdapterNotFound if there is none."""
        return self.catalog.adapter(name, self.sees)

    def loaded_as(self, lora_name: str) -> Adapter | None:
        """Return the adapter that was loaded under ``lora_name``, which is not its own name."""
        adapter = self.catalog.loaded_as(lora_name)
        return adapter if adapter is not None and self.sees(adapter.name) else None

    def page(self, after: str | None, limit: int) -> tuple[list[Adapter], bool]:
        """Return up to ``limit`` adapters whose names sort behind ``after``, and whether more follow."""
        return self.catalog.adapters(after, limit, self.sees)

    def owns(self, name: str) -> bool:
        """Whether the adapter ``name``, which the caller sees, is not one that another project shares."""
        return self.caller.seen_project in (None, self.catalog.adapter(name).project)

    def owned(self, name: str) -> Adapter:
        """Return an adapter that the caller may change.

        Raises:
            AdapterNotFound: there is none.
            AdapterShared: it is another project's.
        """
        return self._own(self.adapter(name))

    def project_of(self, name: str, owner: str | None) -> str:
        """Return the project to which an adapter that is published as ``name`` belongs.

        Args:
            owner: the project that has the name, by an adapter that was deleted too; None: no project has it.

        Raises:
            NameNotAllowed: the caller may not use this name; another project may have it.
            AdapterShared: it is another project's adapter.
        """
        if not self.caller.may_name(name):
            raise NameNotAllowed(name)
        if owner is None or self.caller.seen_project in (None, owner):
            return owner or self.caller.project
        if name in self.catalog and self.sees(name):
            raise AdapterShared(name)
        raise NameNotAllowed(name)

    def _own(self, adapter: Adapter) -> Adapter:
        if self.caller.seen_project in (None, adapter.project):
            return adapter
        raise AdapterShared(adapter.name)
