"""Checks at a job's creation whether this server could serve the adapter that it would make."""

from collections.abc import Collection, Sequence
from contextlib import suppress

from adapters.errors import InvalidName, NameNotAllowed, NameTaken, NotFound
from server.access.caller import Caller
from server.access.visible_adapters import VisibleAdapters
from server.engine.protocol import EngineInfo
from server.errors import EngineNotReady
from server.gateway.resolve import resolve
from server.http.schemas.base import Json
from server.http.schemas.fine_tuning_requests import JobBody
from server.operations.publish import check_name, project_to_publish
from server.state import AppState
from trainer.errors import InvalidField
from trainer.options import ALL_LINEAR, DEFAULT_RANK
from trainer.training_method import TrainingMethod


async def servable_extension(body: JobBody, state: AppState, caller: Caller) -> Json:
    """Return our own fields of a job, with the rank and the version to go on from resolved.

    Raises:
        InvalidField: a rank or targets that the engine does not take; a warm start that does not exist, is
            given twice, or together with them; an integration that the operator did not allow.
        InvalidName, NameTaken: no adapter may have the name.
        NameNotAllowed, AdapterShared: the caller may not publish an adapter of that name.
        WrongBase: the warm start was made for another base model.
        EngineNotReady: the base model is not known yet.
    """
    _check_integrations(body, state)
    info = state.engine.info
    extension = body.extension()
    method = TrainingMethod.SUPERVISED if body.method is None else body.method.type
    for name, reason in method.traits.without.items():
        if name in extension:
            raise InvalidField(f"{name} has no effect with method {method}: {reason}", param=name)
    if (warm_start := await _warm_start(body, info, state, caller)) is not None:
        extension["warm_start"] = warm_start
    if warm_start is not None and not method.trains_weights:
        for name in ("rank", "alpha", "targets"):
            if name in extension:
                raise InvalidField(f"a warm start keeps its own {name}: leave {name} out", param=name)
    else:
        extension["rank"] = _rank(extension.get("rank"), info, DEFAULT_RANK if not method.trains_weights else None)
        _check_targets(body.targets, info, state)
    _check_name("adapter", body.adapter, state)
    _check_name("suffix", body.fitted_suffix, state)
    await _check_project(body, state, caller)
    return extension


async def served_teacher(body: JobBody, state: AppState, caller: Caller) -> str | None:
    """Return the name of the version that teaches; None: the base model does. Later moves of an alias change nothing.

    Raises:
        InvalidField: there is no such model.
        WrongBase: it was made for another base model.
    """
    if body.teacher is None or body.teacher in state.engine.info.served_names:
        return None
    return await _version_named(body.teacher, "method.distill.teacher", "teaches nothing", state, caller)


def _check_integrations(body: JobBody, state: AppState) -> None:
    allowed = state.settings.integrations
    for number, integration in enumerate(body.integrations or ()):
        if integration.type not in allowed:
            raise InvalidField(
                f"this server does not report to {integration.type}: leave integrations out and follow the job's "
                f"events, or start it with --integration {integration.type}",
                param=f"integrations.{number}.type",
            )


async def _warm_start(body: JobBody, info: EngineInfo, state: AppState, caller: Caller) -> str | None:
    """Return the name of the version to go on from; later moves of an alias change nothing about the job."""
    param = "warm_start" if body.model in info.served_names else "model"
    reference = body.warm_start if param == "warm_start" else body.model
    if param == "model" and body.warm_start is not None:
        raise InvalidField(
            "model and warm_start both name an adapter to go on from: leave one out, or set model to "
            f"{info.served_names[0]}",
            param="warm_start",
        )
    if reference is None:
        return None
    return await _version_named(reference, param, "cannot be trained on", state, caller)


async def _version_named(reference: str, param: str, fault: str, state: AppState, caller: Caller) -> str:
    """Return the name of the version that ``reference`` means now.

    Raises:
        InvalidField: the caller has no such adapter; the message says that it has this ``fault``.
    """
    info = state.engine.info
    try:
        return (await state.registry.look_up(lambda catalog: resolve(reference, catalog, info, caller))).name
    except NotFound as unknown:
        raise InvalidField(
            f"{param} '{reference:.100}' {fault}: use {' or '.join(info.served_names)}, or the reference of an "
            "adapter; GET /v1/models lists both",
            param=param,
        ) from unknown


async def _check_project(body: JobBody, state: AppState, caller: Caller) -> None:
    """Refuse the name of an adapter that belongs to another project, also where the caller may change that one."""
    name = body.adapter or body.fitted_suffix
    if name is None and caller.adapters is not None:
        raise InvalidField("this key may publish adapters of certain names alone: set adapter to one", param="adapter")
    adapters = VisibleAdapters(state.registry.catalog, caller)
    if name is not None and await project_to_publish(state, adapters, name) != caller.project:
        raise NameNotAllowed(name, param="suffix" if body.adapter is None else "adapter")


def _rank(rank: int | None, info: EngineInfo, default: int | None) -> int:
    """Return the rank of the adapter; ``default`` None: the largest that the engine takes."""
    if rank is not None and rank > info.max_rank:
        raise InvalidField(
            f"the engine takes adapters up to rank {info.max_rank}: give a lower one, or start the server with a "
            "larger --max-lora-rank",
            param="rank",
        )
    return rank or min(default or info.max_rank, info.max_rank)


def _check_targets(targets: Sequence[str] | None, info: EngineInfo, state: AppState) -> None:
    unserved: Collection[str] = ()
    with suppress(EngineNotReady):  # what the job makes is checked again when it is published
        unserved = state.engine.running().engine.unserved_modules
    known = {module.rpartition(".")[2] for module in info.base.modules if module not in unserved}
    if targets is None or targets == ALL_LINEAR:
        return
    if unknown := [target for target in targets if target not in known]:
        raise InvalidField(
            f"no LoRA is served on modules of '{info.served_names[0]}' called {', '.join(unknown)[:200]}: targets is "
            f"'{ALL_LINEAR}' or "
            f"some of {', '.join(sorted(known))}",
            param="targets",
        )


def _check_name(param: str, name: str | None, state: AppState) -> None:
    if name is None:
        return
    try:
        check_name(state, name)
    except (InvalidName, NameTaken) as refused:
        refused.param = param
        raise
