"""Fine-tuned names in the registry: one version for ever, however often and by how many processes it is added."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from adapters.errors import AdapterNotFound, InvalidName, NameTaken, VersionInUse, VersionNotFound
from adapters.names import FineTunedName, Reference
from adapters.registry.registry import Registry
from adapters.versions import Version
from tests.postgres import on_both_databases

pytestmark = on_both_databases

ROOT = Path(__file__).resolve().parents[3]
ADDER = Path(__file__).with_name("checkpoint_adder.py")
NUM_PROCESSES, NUM_STEPS = 3, 40

AddVersion = Callable[..., Awaitable[Version]]

RESULT = FineTunedName.of("base", "patchbay", "sql", "abc")


def checkpoint(step: int) -> FineTunedName:
    return FineTunedName.of("base", "patchbay", "sql", "abc", step)


async def test_a_checkpoint_is_resolved_by_its_name_and_moves_no_alias(registry: Registry, add: AddVersion):
    first = await add("sql", fine_tuned_name=checkpoint(1))
    second = await add("sql", fine_tuned_name=checkpoint(2))

    assert registry.catalog.resolve(checkpoint(1)) == first
    assert registry.catalog.resolve(checkpoint(2)) == second
    adapter = registry.catalog.adapter("sql")
    assert adapter.fine_tuned == {checkpoint(1).text: 1, checkpoint(2).text: 2}
    assert adapter.aliases == {}


async def test_a_checkpoint_moves_the_alias_that_is_asked_for(registry: Registry, add: AddVersion):
    version = await add("sql", fine_tuned_name=checkpoint(1), alias="canary")
    assert registry.catalog.resolve(Reference("sql", alias="canary")) == version


async def test_the_first_version_that_is_no_checkpoint_becomes_stable(registry: Registry, add: AddVersion):
    await add("sql", fine_tuned_name=checkpoint(1))
    uploaded = await add("sql")
    await add("sql")
    assert registry.catalog.resolve(Reference("sql")) == uploaded


async def test_beside_a_result_an_upload_does_not_become_stable(registry: Registry, add: AddVersion):
    await add("sql", fine_tuned_name=checkpoint(1))
    await registry.name_result("sql", 1, RESULT, alias="canary", report={})
    await add("sql")
    assert set(registry.catalog.adapter("sql").aliases) == {"canary"}


async def test_a_name_that_means_a_version_is_added_no_second_time(registry: Registry, add: AddVersion):
    first = await add("sql", fine_tuned_name=checkpoint(1), digest="a" * 64)
    again = await add("sql", fine_tuned_name=checkpoint(1), digest="b" * 64, alias="canary")
    other = await add("poet", fine_tuned_name=checkpoint(1))

    assert first == again == other
    assert [adapter.name for adapter in registry.catalog] == ["sql"]
    assert registry.catalog.adapter("sql").aliases == {}
    assert (await add("sql")).number == 2


async def test_a_result_is_named_pointed_to_and_reported_at_once(registry: Registry, add: AddVersion):
    await add("sql")
    await add("sql", fine_tuned_name=checkpoint(1))
    best = await add("sql", fine_tuned_name=checkpoint(2))
    named = await registry.name_result("sql", best.number, RESULT, report={"training": {"steps": 2}})

    assert named == best
    assert registry.catalog.resolve(RESULT) == registry.catalog.resolve(checkpoint(2)) == best
    assert registry.catalog.resolve(Reference("sql")) == best
    assert await registry.report(best) == {"rank": 8, "training": {"steps": 2}}


async def test_a_result_is_named_once_and_the_first_wins(registry: Registry, add: AddVersion):
    for step in (1, 2):
        await add("sql", fine_tuned_name=checkpoint(step))
    first = await registry.name_result("sql", 1, RESULT, report={"loss": 1})
    moved = await registry.move_alias("sql", "stable", 2)

    assert await registry.name_result("sql", 1, RESULT, report={"loss": 3}) == first
    assert await registry.name_result("sql", 2, RESULT, report={"loss": 3}) == first
    assert registry.catalog.alias("sql", "stable") == moved
    assert await registry.report(first) == {"rank": 8, "loss": 1}


@pytest.mark.parametrize(("number", "alias", "error"), [(9, "stable", VersionNotFound), (1, "7", InvalidName)])
async def test_a_result_that_cannot_be_named_leaves_nothing(
    registry: Registry, add: AddVersion, number: int, alias: str, error: type[Exception]
):
    version = await add("sql", fine_tuned_name=checkpoint(1))
    with pytest.raises(error):
        await registry.name_result("sql", number, RESULT, alias=alias, report={"loss": 1})

    assert await registry.report(version) == {"rank": 8}
    assert registry.catalog.adapter("sql").aliases == {}
    with pytest.raises(AdapterNotFound, match="list the models"):
        registry.catalog.resolve(RESULT)


async def test_a_deleted_version_takes_its_names_along_for_ever(registry: Registry, add: AddVersion):
    for step in (1, 2):
        await add("sql", fine_tuned_name=checkpoint(step))
    await registry.name_result("sql", 1, RESULT, report={})
    await registry.delete_version("sql", 1, with_aliases=True)

    for name in (checkpoint(1), RESULT):
        with pytest.raises(AdapterNotFound):
            registry.catalog.resolve(name)
        with pytest.raises(NameTaken, match=r"'sql@1', which was deleted.*train again"):
            await add("sql", fine_tuned_name=name)
        with pytest.raises(NameTaken):
            await registry.name_result("sql", 2, name, report={})
    assert registry.catalog.adapter("sql").fine_tuned == {checkpoint(2).text: 2}


async def test_a_deleted_adapter_takes_the_names_along_for_ever(registry: Registry, add: AddVersion):
    await add("sql", fine_tuned_name=checkpoint(1))
    await registry.delete_adapter("sql")
    await add("sql")

    with pytest.raises(AdapterNotFound):
        registry.catalog.resolve(checkpoint(1))
    with pytest.raises(NameTaken):
        await add("sql", fine_tuned_name=checkpoint(1))


async def test_a_version_is_deleted_with_the_aliases_that_point_to_it(registry: Registry, add: AddVersion):
    await add("sql", alias="canary")
    await add("sql", alias="next")
    await registry.delete_version("sql", 1, with_aliases=True)

    adapter = registry.catalog.adapter("sql")
    assert {alias.name: alias.version for alias in adapter.aliases.values()} == {"next": 2}
    assert [move.to_version for move in await registry.moves("sql", "canary")] == [1, None]


async def test_a_pinned_version_keeps_its_aliases_and_names(registry: Registry, add: AddVersion):
    await add("sql", fine_tuned_name=checkpoint(1), alias="stable")
    pinned = await registry.set_pinned("sql", 1, True)
    with pytest.raises(VersionInUse, match="unpin it first"):
        await registry.delete_version("sql", 1, with_aliases=True)

    assert registry.catalog.resolve(Reference("sql")) == registry.catalog.resolve(checkpoint(1)) == pinned


async def test_names_are_there_after_reopening_and_in_registries_that_follow(
    registry: Registry, database_url: str, add: AddVersion
):
    async with Registry.open(database_url) as other:
        await add("sql", fine_tuned_name=checkpoint(1))
        await registry.name_result("sql", 1, RESULT, report={})
        await other.refresh()
        assert other.catalog.resolve(RESULT) == registry.catalog.resolve(checkpoint(1))
        assert list(other.catalog) == list(registry.catalog)
    async with Registry.open(database_url) as reopened:
        assert list(reopened.catalog) == list(registry.catalog)


async def test_registries_that_add_one_name_at_once_get_one_version(
    registry: Registry, database_url: str, add: AddVersion
):
    async with Registry.open(database_url) as other:
        added = await asyncio.gather(
            *(add("sql", fine_tuned_name=checkpoint(1), to=to) for to in (registry, other) for _ in range(8))
        )
        assert len({version.id for version in added}) == 1
        for opened in (registry, other):
            assert opened.catalog.resolve(checkpoint(1)) == added[0]
    assert list(registry.catalog.adapter("sql").versions) == [1]


async def test_processes_that_race_publish_each_checkpoint_once(registry: Registry, database_url: str):
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(ADDER),
            *map(str, (database_url, number, NUM_STEPS)),
            env={"PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(NUM_PROCESSES)
    ]
    for process in started:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in started))
    assert [process.returncode for process in started] == [0] * NUM_PROCESSES

    await registry.refresh()
    living = registry.catalog.adapter("sql")
    steps = range(1, NUM_STEPS + 1)
    names = [FineTunedName.of("base", "patchbay", "sql", "race", step) for step in steps]
    found = [registry.catalog.resolve(name) for name in names]
    assert list(living.versions) == list(steps)
    assert living.fine_tuned == {name.text: step for name, step in zip(names, steps, strict=True)}
    expected = "".join(f"{v.number} {v.id} {v.number} {v.digest}\n" for v in found).encode()
    assert [output for output, _ in outputs] == [expected] * NUM_PROCESSES
