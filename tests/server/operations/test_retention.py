"""Which versions of an adapter stay while others are loaded in place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from adapters.names import FineTunedName
from tests.server.opened import MakeAdapter, Opened, Opening

LOAD = "/v1/load_lora_adapter"

Serving = Callable[..., AbstractAsyncContextManager[Opened]]


@pytest.fixture
def serving(opening: Opening, make_adapter: MakeAdapter, tmp_path: Path) -> Serving:
    """Opens a server that may read an adapter; settings by keyword."""
    make_adapter().write(tmp_path / "sources" / "sql")
    return lambda **settings: opening(source_dirs=(tmp_path / "sources",), **settings)


async def load_in_place(opened: Opened, name: str = "sql", *, times: int = 1) -> None:
    for _ in range(times):
        body = {"lora_name": name, "lora_path": "sql", "load_inplace": True}
        response = await opened.client.post(LOAD, json=body)
        assert response.status_code == 200, response.text


def numbers(opened: Opened, name: str = "sql") -> list[int]:
    return list(opened.state.registry.catalog.adapter(name).versions)


async def test_a_loop_that_loads_in_place_keeps_the_newest_versions(serving: Serving) -> None:
    async with serving() as opened:
        await load_in_place(opened, times=12)
        assert numbers(opened) == [9, 10, 11, 12]
        assert await opened.answer("sql") == "sql@12"


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"keep_in_place": 2}, [5, 6]),
        ({"keep_in_place": 0}, [1, 2, 3, 4, 5, 6]),
        ({"keep_in_place": 2, "keep_for_s": 3600}, [1, 2, 3, 4, 5, 6]),
        ({"keep_in_place": 0, "keep_versions": 3}, [4, 5, 6]),
    ],
)
async def test_the_settings_say_how_many(serving: Serving, settings: dict[str, Any], kept: list[int]) -> None:
    async with serving(**settings) as opened:
        await load_in_place(opened, times=6)
        assert numbers(opened) == kept


async def test_what_has_a_name_stays(serving: Serving) -> None:
    async with serving(keep_in_place=1) as opened:
        registry = opened.state.registry
        for number in range(1, 5):
            await load_in_place(opened)
            if number == 1:
                await registry.move_alias("sql", "canary", 1)
            elif number == 2:
                await opened.client.post("/v1/adapters/sql/versions/2/pin")
            elif number == 3:
                await registry.name_result("sql", 3, FineTunedName("ft:base:patchbay::abc"), report={})
        await load_in_place(opened, times=3)
        assert numbers(opened) == [1, 2, 3, 7]


async def test_what_an_unfinished_job_trains_further_stays(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    async def warm_starts(_: object) -> set[str]:
        return {"sql@1", "other@2"}

    monkeypatch.setattr("trainer.jobs.job_store.JobStore.warm_starts", warm_starts)
    async with serving(keep_in_place=1) as opened:
        await load_in_place(opened, times=4)
        assert numbers(opened) == [1, 4]


async def test_uploads_stay_unless_their_number_is_limited(serving: Serving) -> None:
    async with serving(keep_in_place=1) as opened:
        for seed in range(1, 4):
            await opened.publish("sql", seed)
        await load_in_place(opened, times=3)
        assert numbers(opened) == [1, 2, 3, 6]
    async with serving(keep_in_place=1, keep_versions=2) as opened:
        await opened.publish("sql", 4)
        assert numbers(opened) == [6, 7]


async def test_the_files_of_a_deleted_version_are_swept(serving: Serving, make_adapter: MakeAdapter) -> None:
    async with serving(keep_in_place=1, keep_versions=1) as opened:
        first = await opened.publish("sql", 1)
        await opened.publish("sql", 2, alias="stable")
        assert first["digest"] not in await opened.state.registry.digests()


async def test_streams_finish_on_a_version_that_is_deleted(serving: Serving) -> None:
    async with serving(keep_in_place=1) as opened:
        await load_in_place(opened)
        caller = opened.call("sql")
        await caller.start()
        await load_in_place(opened, times=2)
        assert numbers(opened) == [3]
        assert "sql@1" in await caller.rest()
