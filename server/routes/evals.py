"""Evals, their runs and the output items of those: OpenAI's routes; ``server.evals`` works on the runs."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends

from server.http.schemas.base import ListObject
from server.http.schemas.evals import (
    DeletedEval,
    DeletedEvalRun,
    EvalBody,
    EvalChanges,
    EvalObject,
    EvalRunBody,
    EvalRunObject,
    OutputItemObject,
)
from server.operations import evals as operations
from server.routes.dependencies import CallerDep, ListDep, ProjectDep, StateDep, check_stored
from trainer.evals.objects import Eval, EvalRun, ItemStatus
from trainer.evals.state import EvalRunState

router = APIRouter(prefix="/v1/evals", tags=["evals"])


async def _own_eval(eval_id: str, state: StateDep, project: ProjectDep) -> Eval:
    """Return the eval in the path; EvalNotFound where the caller's project has none of this id."""
    return await state.records.evals.get(eval_id, project)


EvalDep = Annotated[Eval, Depends(_own_eval)]


async def _own_run(run_id: str, of: EvalDep, state: StateDep) -> EvalRun:
    """Return the run in the path; EvalRunNotFound where the eval has none of this id."""
    return await state.records.eval_runs.get(of.id, run_id)


EvalRunDep = Annotated[EvalRun, Depends(_own_run)]


@router.post("", status_code=201, dependencies=[Depends(check_stored)])
async def create(body: EvalBody, state: StateDep, caller: CallerDep) -> EvalObject:
    """Create an eval: testing criteria, and the schema of the items that runs apply them to."""
    return EvalObject.from_eval(await operations.create_eval(state, caller, body.draft(caller.project)))


@router.get("")
async def list_evals(
    state: StateDep,
    project: ProjectDep,
    query: ListDep,
    order_by: Literal["created_at", "updated_at"] = "created_at",
) -> ListObject[EvalObject]:
    """List the evals."""
    page = await state.records.evals.list(**query.paging, by_update=order_by == "updated_at", project=project)
    return ListObject[EvalObject](data=map(EvalObject.from_eval, page.data), has_more=page.has_more)


@router.get("/{eval_id}")
async def show(of: EvalDep) -> EvalObject:
    """Show an eval."""
    return EvalObject.from_eval(of)


@router.post("/{eval_id}")
async def update(of: EvalDep, body: EvalChanges, state: StateDep) -> EvalObject:
    """Change the name or the metadata of an eval."""
    return EvalObject.from_eval(await state.records.evals.update(of.id, body.values))


@router.delete("/{eval_id}")
async def delete(of: EvalDep, state: StateDep) -> DeletedEval:
    """Delete an eval with its runs."""
    await state.records.evals.delete(of.id)
    return DeletedEval(eval_id=of.id)


@router.post("/{eval_id}/runs", status_code=201, dependencies=[Depends(check_stored)])
async def create_run(of: EvalDep, body: EvalRunBody, state: StateDep, caller: CallerDep) -> EvalRunObject:
    """Create a run: the testing criteria over the items of a data source, with a model's answers to them."""
    return EvalRunObject.from_run(await operations.create_run(state, caller, of, body.draft(caller.key_id)), of)


@router.get("/{eval_id}/runs")
async def list_runs(
    of: EvalDep, state: StateDep, query: ListDep, status: EvalRunState | None = None
) -> ListObject[EvalRunObject]:
    """List the runs of an eval."""
    page = await state.records.eval_runs.list(of.id, **query.paging, state=status)
    runs = [EvalRunObject.from_run(run, of) for run in page.data]
    return ListObject[EvalRunObject](data=runs, has_more=page.has_more)


@router.get("/{eval_id}/runs/{run_id}")
async def show_run(of: EvalDep, run: EvalRunDep) -> EvalRunObject:
    """Show a run."""
    return EvalRunObject.from_run(run, of)


@router.post("/{eval_id}/runs/{run_id}/cancel")
@router.post("/{eval_id}/runs/{run_id}", operation_id="cancel_run_of_older_clients")
async def cancel_run(of: EvalDep, run: EvalRunDep, state: StateDep) -> EvalRunObject:
    """End a run at once, with the results it has by now. Clients of OpenAI call one path or the other."""
    return EvalRunObject.from_run(await state.records.eval_runs.cancel(of.id, run.id), of)


@router.delete("/{eval_id}/runs/{run_id}")
async def delete_run(of: EvalDep, run: EvalRunDep, state: StateDep) -> DeletedEvalRun:
    """Delete a run with its output items; one in progress ends."""
    await state.records.eval_runs.delete(of.id, run.id)
    return DeletedEvalRun(run_id=run.id)


@router.get("/{eval_id}/runs/{run_id}/output_items")
async def list_output_items(
    run: EvalRunDep, state: StateDep, query: ListDep, status: Literal["fail", "pass", "error"] | None = None
) -> ListObject[OutputItemObject]:
    """List the items that have results. ``status=error`` is not OpenAI's."""
    wanted = None if status is None else ItemStatus(status)
    page = await state.records.eval_runs.items(run, **query.paging, status=wanted)
    items = [OutputItemObject.from_item(item, run) for item in page.data]
    return ListObject[OutputItemObject](data=items, has_more=page.has_more)


@router.get("/{eval_id}/runs/{run_id}/output_items/{output_item_id}")
async def show_output_item(run: EvalRunDep, output_item_id: str, state: StateDep) -> OutputItemObject:
    """Show an item that has results."""
    return OutputItemObject.from_item(await state.records.eval_runs.item(run, output_item_id), run)
