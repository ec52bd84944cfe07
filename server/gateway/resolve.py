"""Resolves a request's ``model`` to a version. Dictionary look-ups only; nothing here waits."""

from adapters.errors import AdapterNotFound, InvalidName, WrongBase
from adapters.registry.catalog import Catalog, Choose, current_version
from adapters.versions import Version
from server.access.caller import ANONYMOUS, Caller
from server.access.visible_adapters import VisibleAdapters
from server.engine.protocol import EngineInfo


def resolve(
    model: str, catalog: Catalog, info: EngineInfo, caller: Caller = ANONYMOUS, choose: Choose = current_version
) -> Version:
    """Return the version that ``model`` refers to, if ``caller`` may use it.

    ``choose``: returns the number of the version that answers behind an alias with an active rollout.

    Raises:
        NotFound: no such adapter, alias, version or fine-tuned name, or not for ``caller``; the base model
            does not answer instead.
        WrongBase: the version was made for another base model than the one served.
    """
    try:
        version = VisibleAdapters(catalog, caller).find(model, choose)
    except (InvalidName, AdapterNotFound) as unknown:
        raise AdapterNotFound(
            f"The model `{model[:200]}` does not exist. GET /v1/models lists the adapters; the base model is "
            f"`{info.served_names[0]}`.",
            param="model",
        ) from unknown
    return check_base(version, info)


def check_base(version: Version, info: EngineInfo) -> Version:
    """Return ``version``; raises WrongBase if it was made for another base model than the one served."""
    if version.base_fingerprint != info.base.fingerprint:
        raise WrongBase(
            f"{version.name} was made for another base model than '{info.served_names[0]}', which is served here; "
            "start the server with that base, or train the adapter again on this one",
            param="model",
        )
    return version
