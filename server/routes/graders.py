"""Graders: validated, and tried on one answer. OpenAI's routes."""

from __future__ import annotations

from time import perf_counter
from typing import Final

import structlog
from fastapi import APIRouter, Request

from server.gateway.gateway import REQUEST_ID
from server.http.schemas.graders import GradeBody, GradeObject, ValidateBody, ValidatedGrader
from server.operations.grader_client import GraderClient
from server.routes.dependencies import StateDep
from server.state import AppState
from trainer.graders.grader import Sample
from trainer.graders.parsing import parse

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["fine-tuning"])

_KEYS: Final = ("authorization", "x-api-key")


@router.post("/validate")
async def validate(body: ValidateBody, request: Request, state: StateDep) -> ValidatedGrader:
    """Validate a grader: its fields, and that the models it names exist."""
    parse(body.grader, "grader").check(_models(request, state), "grader")
    return ValidatedGrader(grader=body.grader)


@router.post("/run")
async def run(body: GradeBody, request: Request, state: StateDep) -> GradeObject:
    """Grade one answer. What keeps the grader from a score shows in ``metadata.errors``, with a reward of 0."""
    grader, models = parse(body.grader, "grader"), _models(request, state)
    grader.check(models, "grader")
    started = perf_counter()
    grade = await grader.grade(Sample(body.model_sample, body.item or {}), models)
    return GradeObject.from_grade(grader, grade, perf_counter() - started)


def _models(request: Request, state: AppState) -> GraderClient:
    """Return a client of this server's models that sends the API key and the request id of ``request``."""
    keys = {name: request.headers[name] for name in _KEYS if name in request.headers}
    request_id = structlog.contextvars.get_contextvars()["request_id"]
    return GraderClient(state, request.app.state.gateway, {**keys, REQUEST_ID: request_id})
