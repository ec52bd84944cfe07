"""Feedback on answers: given, listed, deleted, exported as training files. Stored chat completions: shown, deleted."""

from typing import Literal

from fastapi import APIRouter

from server.http.schemas.base import DeletedObject, ListObject
from server.http.schemas.feedback import ExportBody, FeedbackBody, FeedbackObject
from server.http.schemas.fine_tuning import FileObject
from server.http.schemas.responses import StoredCompletionObject
from server.operations.feedback import export_feedback, give_feedback
from server.responses.response_store import COMPLETION
from server.routes.dependencies import CallerDep, PageLimit, ProjectDep, StateDep

router = APIRouter(prefix="/v1", tags=["feedback"])


@router.post("/feedback")
async def give(body: FeedbackBody, state: StateDep, caller: CallerDep) -> FeedbackObject:
    """Say of answers of this server which was good, better or best; they must be stored (`store: true`)."""
    return FeedbackObject.from_feedback(await give_feedback(state, body, caller))


@router.post("/feedback/export")
async def export(body: ExportBody, state: StateDep, caller: CallerDep) -> FileObject:
    """Make a file of training rows of the project's feedback; a job takes its id as `training_file`."""
    return FileObject.model_validate(await export_feedback(state, body, caller))


@router.get("/feedback")
async def list_feedback(
    state: StateDep,
    project: ProjectDep,
    after: str | None = None,
    limit: PageLimit = 20,
    order: Literal["asc", "desc"] = "desc",
) -> ListObject[FeedbackObject]:
    """List the feedback of the caller's project."""
    page = await state.records.feedback.list(after=after, limit=limit, newest_first=order == "desc", project=project)
    return ListObject[FeedbackObject](data=map(FeedbackObject.from_feedback, page.data), has_more=page.has_more)


@router.get("/feedback/{feedback_id}")
async def show(feedback_id: str, state: StateDep, project: ProjectDep) -> FeedbackObject:
    """Show feedback of the caller's project."""
    return FeedbackObject.from_feedback(await state.records.feedback.get(feedback_id, project))


@router.delete("/feedback/{feedback_id}")
async def delete(feedback_id: str, state: StateDep, project: ProjectDep) -> DeletedObject:
    """Delete feedback of the caller's project, with the prompt and the answers in it."""
    await state.records.feedback.delete(feedback_id, project)
    return DeletedObject(object="feedback", id=feedback_id)


@router.get("/chat/completions/{completion_id}")
async def show_completion(completion_id: str, state: StateDep, project: ProjectDep) -> StoredCompletionObject:
    """Show a chat completion that was made with `store: true`. OpenAI's route."""
    stored = await state.responses.get(completion_id, project, (COMPLETION,))
    return StoredCompletionObject.model_validate(dict(stored.body))


@router.delete("/chat/completions/{completion_id}")
async def delete_completion(completion_id: str, state: StateDep, project: ProjectDep) -> DeletedObject:
    """Delete a stored chat completion; feedback on it keeps what it was about. OpenAI's route."""
    await state.responses.delete(completion_id, project, COMPLETION)
    return DeletedObject(object="chat.completion.deleted", id=completion_id)
