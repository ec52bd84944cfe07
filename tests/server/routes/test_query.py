"""Unknown query parameters are refused on every control route; what OpenAI's client sends is known."""

from __future__ import annotations

import re

import httpx
import openai as client_library
import pytest
from fastapi.routing import APIRoute
from openai import AsyncOpenAI

from server.app import ROUTES
from server.http.query import PROBES
from tests.server.opened import Opened

JOBS = "/v1/fine_tuning/jobs"


async def test_every_control_route_but_the_probes_refuses_an_unknown_parameter(client: httpx.AsyncClient) -> None:
    routes = [route for module in ROUTES for route in module.router.routes if isinstance(route, APIRoute)]
    assert {route.path for route in routes} > PROBES
    for route in routes:
        if route.path in PROBES:
            continue
        path = re.sub(r"\{.*?\}", "1", route.path)
        for method in route.methods:
            response = await client.request(method, path, params={"limt": 1})
            assert (response.status_code, response.json()["error"]["param"]) == (400, "limt"), path


@pytest.mark.parametrize(
    ("method", "path", "known"),
    [
        ("GET", "/v1/adapters", "after, limit"),
        ("GET", JOBS, "after, limit, metadata"),
        ("POST", "/v1/adapters/sql/versions", "alias, allow_inert, compress_to, force_base"),
        ("GET", "/v1/residents", "none"),
    ],
)
async def test_the_refusal_lists_the_known_parameters(
    client: httpx.AsyncClient, method: str, path: str, known: str
) -> None:
    error = (await client.request(method, path, params={"limt": 1})).json()["error"]
    assert error["message"] == f"unknown query parameter 'limt'; parameters of this route: {known}"


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
async def test_a_probe_may_carry_parameters_of_a_load_balancer(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path, params={"lb": "eu-1", "t": "1"})).status_code == 200


@pytest.mark.parametrize("query", ["limit[a]=1", "metadata[a=b", "metadatax[a]=b", "limit=1&Limit=2"])
async def test_brackets_and_case_make_another_parameter(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"{JOBS}?{query}")).status_code == 400


async def test_an_unknown_path_is_not_found_whatever_its_query(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/nowhere?a=1")).status_code == 404


async def test_openai_s_client_sends_known_parameters_only(openai: AsyncOpenAI, opened: Opened) -> None:
    file = await openai.files.create(file=("a", b"x"), purpose="fine-tune")
    await openai.files.list(after=file.id, limit=1, order="asc", purpose="fine-tune")
    await openai.models.list()
    jobs = openai.fine_tuning.jobs
    await jobs.list(limit=1, metadata={"team": "a", "a [nested] key": "b"})
    await jobs.list(limit=1, metadata={})
    with pytest.raises(client_library.NotFoundError):
        await jobs.list_events("ftjob-x", after="ftevent-x", limit=1)
    with pytest.raises(client_library.NotFoundError):
        await jobs.checkpoints.list("ftjob-x", after="ftckpt-x", limit=1)
    permissions = openai.fine_tuning.checkpoints.permissions
    with pytest.raises(client_library.NotFoundError):
        await permissions.list("x", after="cp", limit=1, order="ascending", project_id="p")


async def test_what_a_caller_adds_to_openai_s_client_is_refused(openai: AsyncOpenAI) -> None:
    with pytest.raises(client_library.BadRequestError) as refused:
        await openai.files.list(extra_query={"purposes": "batch"})
    assert refused.value.param == "purposes"
