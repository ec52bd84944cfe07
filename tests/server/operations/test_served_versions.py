"""Flags of the engine that would cut published versions end the start, with the versions' names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.engine.fake import FakeBuilder, Knobs
from server.engine.protocol import StartRefused
from server.operations.served_versions import check_served_versions
from server.supervisor import EXIT_REFUSED
from tests.server.opened import BASE, Opened, Opening
from tests.until import Until

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"


async def test_a_start_that_would_leave_modules_of_a_version_out_is_refused(opening: Opening, until: Until) -> None:
    async with opening() as opened:
        await opened.publish("sql")
        await opened.publish("sql", 2)
    builder = FakeBuilder(BASE, knobs=Knobs(unserved_modules=frozenset({V})))
    async with opening(builder=builder, ready=False) as opened:
        await until(opened.state.supervisor.failed.is_set)
        assert opened.state.supervisor.exit_code == EXIT_REFUSED
        assert len(builder.engines) == 1


@pytest.mark.parametrize(
    ("max_rank", "unserved", "phrases"),
    [
        (16, {V}, ["sql@1, sql@2: LoRA on v_proj", "--lora-target-modules that has v_proj"]),
        (16, {Q, V}, ["LoRA on q_proj, v_proj"]),
        (4, set(), ["sql@1, sql@2: rank 8, where the engine takes 4", "--max-lora-rank 8"]),
        (4, {V}, ["rank 8", "LoRA on v_proj"]),
    ],
)
async def test_the_refusal_names_versions_modules_and_flags(
    opening: Opening, max_rank: int, unserved: set[str], phrases: list[str]
) -> None:
    async with opening() as opened:
        await opened.publish("sql")
        await opened.publish("sql", 2)
        running = opened.state.engine.running()
        running.engine.unserved_modules = frozenset(unserved)
        changed = replace(running, info=replace(running.info, max_rank=max_rank))
        with pytest.raises(StartRefused) as refused:
            await check_served_versions(opened.state.registry, changed)
        assert all(phrase in str(refused.value) for phrase in phrases), str(refused.value)


async def test_modules_that_no_version_has_may_be_left_out(opening: Opening) -> None:
    async with opening() as opened:
        await opened.publish("sql")
    builder = FakeBuilder(BASE, knobs=Knobs(unserved_modules=frozenset({"lm_head", "visual.q_proj"})))
    async with opening(builder=builder) as opened:
        assert await opened.answer("sql") == "sql@1"


async def test_an_upload_with_modules_that_are_not_served_is_one_fault(opening: Opening) -> None:
    builder = FakeBuilder(BASE, knobs=Knobs(unserved_modules=frozenset({V})))
    async with opening(builder=builder) as opened:
        assert (await publish(opened)) == [
            "LoRA on 1 module where this server serves none, such as model.layers.0.self_attn.v_proj"
        ]


async def publish(opened: Opened) -> list[str]:
    """Upload an adapter that is refused; return what was found."""
    response = await opened.client.post("/v1/adapters/sql/versions", files=opened.make_adapter().multipart())
    assert response.status_code == 400, response.text
    return [fault["found"] for fault in response.json()["error"]["faults"]]
