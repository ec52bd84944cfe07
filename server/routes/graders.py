"""Graders: tried on one answer, or only checked. OpenAI's routes."""

from __future__ import annotations

from dataclasses import asdict
from time import perf_counter
from typing import Final

import structlog
from fastapi import APIRouter, Request
from pydantic import Field

from server.gateway.gateway import REQUEST_ID
from server.http.schemas.adapters import Json
from server.http.schemas.body import Body
from server.operations.grader_client import GraderClient
from trainer.graders.grader import Grade, Grader, GradingError, Sample
from trainer.graders.models import Usage
from trainer.graders.parsing import parse

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["fine-tuning"])

_KEYS: Final = ("authorization", "x-api-key")

_NEVER: Final[Json] = {
    "model_grader_server_error_details": None,
    "python_grader_runtime_error": False,
    "python_grader_runtime_error_details": None,
    "python_grader_server_error": False,
    "python_grader_server_error_type": None,
    "truncated_observation_error": False,
    "unresponsive_reward_error": False,
}
"""Those of OpenAI's errors that are no trouble of ours, and what is said of one beside it."""


class ValidateBody(Body):
    """Body of a check."""

    grader: Json = Field(
        examples=[
            {
                "type": "string_check",
                "name": "exact",
                "input": "{{sample.output_text}}",
                "reference": "{{item.answer}}",
                "operation": "eq",
            }
        ]
    )


class RunBody(ValidateBody):
    """Body of a trial: an answer, and the item of the data set that it answers."""

    model_sample: str
    item: Json | None = None


@router.post("/validate")
async def validate(body: ValidateBody, request: Request) -> Json:
    """Check a grader: its fields, and that the models are there that it asks."""
    parse(body.grader, "grader").check(_models(request), "grader")
    return {"grader": body.grader}


@router.post("/run")
async def run(body: RunBody, request: Request) -> Json:
    """Grade one answer. What keeps the grader from a score shows in ``metadata.errors``, with a reward of 0."""
    grader, models = parse(body.grader, "grader"), _models(request)
    grader.check(models, "grader")
    started = perf_counter()
    grade = await grader.grade(Sample(body.model_sample, body.item or {}), models)
    return grade_json(grader, grade, perf_counter() - started)


def grade_json(grader: Grader, grade: Grade, took_s: float) -> Json:
    """Return a grade in OpenAI's shape. ``metadata.message`` is ours: what went wrong, in words."""
    only = next(iter(grade.usage)) if len(grade.usage) == 1 else None
    return {
        "reward": grade.reward,
        "sub_rewards": grade.sub_rewards,
        "metadata": {
            "name": grader.name,
            "type": grader.type,
            "errors": _errors(grade),
            "execution_time": took_s,
            "scores": grade.scores,
            "sampled_model_name": only,
            "token_usage": sum(usage.total_tokens for usage in grade.usage.values()) if grade.usage else None,
            "message": "; ".join(grade.errors.values()) or None,
        },
        "model_grader_token_usage_per_model": {model: _usage_json(usage) for model, usage in grade.usage.items()},
    }


def _errors(grade: Grade) -> Json:
    """Return OpenAI's fourteen."""
    details = grade.errors.get(GradingError.MODEL_SERVER)
    return {
        **_NEVER,
        **{error: error in grade.errors for error in GradingError},
        "model_grader_server_error_details": details,
    }


def _usage_json(usage: Usage) -> Json:
    return {**asdict(usage), "total_tokens": usage.total_tokens}


def _models(request: Request) -> GraderClient:
    """Return the models that the request's caller may ask."""
    state = request.app.state
    keys = {name: request.headers[name] for name in _KEYS if name in request.headers}
    request_id = structlog.contextvars.get_contextvars()["request_id"]
    return GraderClient(state.parts, state.gateway, {**keys, REQUEST_ID: request_id})
