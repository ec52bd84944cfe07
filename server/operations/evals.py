"""Creates evals and their runs: everything that can be found wrong is found before they exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx

from adapters.errors import NotFound
from adapters.storage.disk import in_thread
from server.access.caller import Caller
from server.errors import ApiKeyNeeded, RouteUnsupported
from server.gateway.authenticate import authorize
from server.gateway.inference_routes import needs
from server.gateway.resolve import resolve
from server.operations.grader_client import GraderClient
from server.state import AppState
from trainer.errors import FileNotFound, InvalidField
from trainer.evals.criteria import check_models, read_criteria, reads_answer
from trainer.evals.data_source import CompletionsSource, FileId, RunSource, parse_config, parse_run_source
from trainer.evals.item_schema import check_schema
from trainer.evals.objects import Eval, EvalDraft, EvalRun, EvalRunDraft
from trainer.evals.source_items import check_source_size, read_items
from trainer.files.file import Purpose

_CHAT: Final = "/v1/chat/completions"
_PURPOSES: Final = (Purpose.EVALS, Purpose.USER_DATA)

Json = Mapping[str, Any]


async def create_eval(state: AppState, caller: Caller, draft: EvalDraft) -> Eval:
    """Create an eval.

    Raises:
        InvalidField: a testing criterion, the schema of the items, or a model that grades.
    """
    config = parse_config(draft.data_source_config)
    await in_thread(check_schema, config.item_schema, "data_source_config.item_schema")
    await check_models(read_criteria(draft.testing_criteria, config.item_schema), _checking(state, caller))
    await state.accounts.quotas.check_stored(draft.project)
    return await state.records.evals.create(draft)


async def create_run(state: AppState, caller: Caller, of: Eval, draft: EvalRunDraft) -> EvalRun:
    """Create a run of an eval, to be worked on behind other requests.

    The model's reference is resolved now: all items are asked of one version, although an alias may move.

    Raises:
        InvalidField: with every fault of the items; or another fault of the request.
        NotFound: no such model.
        ApiKeyNeeded: the caller has a bearer token.
    """
    if caller.has_token:
        raise ApiKeyNeeded(
            "a run of an eval may take longer than a bearer token lives: create it with an API key, which an operator "
            "makes with `patchbay keys create NAME --scope evals --scope infer`"
        )
    source = parse_run_source(draft.data_source)
    check_source_size(draft.data_source)
    graders = read_criteria(of.testing_criteria)
    await check_models(graders, _checking(state, caller))
    model = await _version(state, caller, source.model) if isinstance(source, CompletionsSource) else ""
    file = await _file(state, caller, source)
    schema, reads_answers = of.data_source_config["item_schema"], any(map(reads_answer, graders))
    async with state.records.eval_runs.creating.place(of.project):
        items, size_bytes = await in_thread(read_items, source, file, schema, reads_answers=reads_answers)
        await state.accounts.quotas.check_stored(of.project, size_bytes)
        return await state.records.eval_runs.create(of, replace(draft, model=model), items, size_bytes)


def _checking(state: AppState, caller: Caller) -> GraderClient:
    async def post(path: str, body: Json) -> httpx.Response:
        raise AssertionError("the models are only looked up")

    return GraderClient(state, caller, post)


async def _version(state: AppState, caller: Caller, model: str) -> str:
    """Return the name of the version that ``model`` means now, or of the base model, if ``caller`` may ask it."""
    running = state.engine.serving()
    if _CHAT not in running.engine.paths:
        raise RouteUnsupported(f"no model of this server can be asked; that takes {needs(_CHAT)}")
    authorize(state.keys, caller.key_id, "POST", _CHAT)
    if model in running.info.served_names:
        return model
    try:
        version = await state.registry.look_up(lambda catalog: resolve(model, catalog, running.info, caller))
    except NotFound as unknown:
        unknown.param = "data_source.model"
        raise
    return version.name


async def _file(state: AppState, caller: Caller, source: RunSource) -> Path | None:
    """Return the path of the file that ``source`` names; None for items in the request."""
    if not isinstance(source.source, FileId):
        return None
    file_id, param = source.source.id, "data_source.source.id"
    try:
        file = await state.records.files.get(file_id, caller.seen_project)
    except FileNotFound:
        reason = "does not exist"
    else:
        if file.purpose in _PURPOSES:
            return await state.records.files.content(file_id)
        reason = f"has the purpose '{file.purpose}'"
    raise InvalidField(f"{param} '{file_id:.100}' {reason}: upload a file with purpose 'evals'", param=param)
