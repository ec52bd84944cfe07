"""The options of publishing one version, by the same names in the API, the CLI and here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.names import DEFAULT_PROJECT, FineTunedName


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """Users state ``alias``, ``allow_inert``, ``compress_to`` and ``force_base``; the server states the others."""

    alias: str | None = None
    """Alias to point to the new version at once."""
    allow_inert: bool = False
    """Publish also if the adapter answers exactly as the base model does."""
    compress_to: int | None = None
    """Truncate to this rank, whatever is lost; None: refuse what loses more than its kind may."""
    force_base: bool = False
    """Publish also if the adapter's config names another base model; its shapes must fit."""
    fine_tuned_name: FineTunedName | None = None
    """Name of a training job's checkpoint. It is published once: the next publication returns the same version."""
    lora_name: str | None = None
    """Name of a new adapter in vLLM's load call, where it is no adapter name; requests may use it."""
    is_first: bool = False
    """Publish only if no adapter, deleted or not, ever had the name; NameTaken otherwise."""
    is_in_place: bool = False
    """Published by a load in place: a later one may delete it."""
    project: str = DEFAULT_PROJECT
    """The project that the adapter belongs to."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Added to the version's report, such as ``training`` or ``merge``."""

    def stated(self) -> dict[str, Any]:
        """Return, as JSON values, those of the users' options that differ from their defaults."""
        options = {name: getattr(self, name) for name in ("alias", "allow_inert", "compress_to", "force_base")}
        return {name: value for name, value in options.items() if value not in (None, False)}
