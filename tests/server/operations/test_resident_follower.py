"""Servers of one database: what one quarantines, deletes or pins, the engines of the others follow."""

from __future__ import annotations

from adapters.registry.registry import Registry
from server.engine.protocol import LoadFailed
from tests.server.opened import Opened
from tests.until import Until


async def test_what_another_server_quarantined_is_unloaded_here(opened: Opened, until: Until) -> None:
    await opened.publish("sql")
    assert await opened.answer("sql") == "sql@1"
    async with Registry.open(opened.state.settings.database) as other:
        await other.set_quarantine(other.catalog.version("sql", 1), "nan")
    await until(lambda: not opened.residents)
    assert (await opened.chat("sql")).json()["error"]["code"] == "adapter_quarantined"


async def test_what_another_server_deleted_is_unloaded_here(opened: Opened, until: Until) -> None:
    await opened.publish("sql", 1)
    await opened.publish("sql", 2, alias="next")
    assert {await opened.answer(model) for model in ("sql", "sql@next")} == {"sql@1", "sql@2"}
    async with Registry.open(opened.state.settings.database) as other:
        await other.delete_version("sql", 2, with_aliases=True)
    await until(lambda: list(opened.residents) == ["sql@1"])
    async with Registry.open(opened.state.settings.database) as other:
        await other.delete_adapter("sql")
    await until(lambda: not opened.residents)


async def test_what_another_server_pinned_is_loaded_here_once(opened: Opened, until: Until) -> None:
    for seed, name in enumerate(("poet", "sql")):
        await opened.publish_cold(name, seed)
    opened.builder.knobs.load_errors["sql@1"] = LoadFailed("spoiled")
    before = len(opened.engine.loads)
    async with Registry.open(opened.state.settings.database) as other:
        await other.set_pinned("sql", 1, is_pinned=True)
        await until(lambda: opened.engine.loads[before:] == ["sql@1"])
        await other.set_pinned("poet", 1, is_pinned=True)
        await until(lambda: list(opened.residents) == ["poet@1"])
    assert opened.engine.loads[before:] == ["sql@1", "poet@1"]
