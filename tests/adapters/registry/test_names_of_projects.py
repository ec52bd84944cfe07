"""Whose a name is: an adapter's name and what its versions and aliases are called belong to one project."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from adapters.errors import NameNotAllowed, NameTaken
from adapters.names import name_for
from adapters.registry.registry import Registry
from adapters.versions import Version
from tests.postgres import on_both_databases

pytestmark = on_both_databases

AddVersion = Callable[..., Awaitable[Version]]


async def test_an_adapter_cannot_be_loaded_as_a_version_that_another_project_will_have(add: AddVersion) -> None:
    await add("sql", project="acme")
    for name in ("sql@1", "sql@2", "sql@prod"):
        with pytest.raises(NameNotAllowed):
            await add("mine", project="globex", lora_name=name)


async def test_a_project_gets_no_name_whose_versions_another_projects_adapters_are_called(add: AddVersion) -> None:
    await add("mine", project="globex", lora_name="sql@prod")
    with pytest.raises(NameNotAllowed):
        await add("sql", project="acme")
    assert (await add("SQL", project="acme")).number == 1
    assert (await add("sql", project="globex")).number == 1


async def test_a_number_that_was_given_is_no_name_to_load_although_its_version_was_deleted(
    registry: Registry, add: AddVersion
) -> None:
    for _ in range(2):
        await add("sql")
    await registry.delete_version("sql", 2)
    with pytest.raises(NameTaken, match="means a version"):
        await add("mine", lora_name="sql@2")


async def test_an_alias_that_was_deleted_gives_way_to_a_name_that_was_loaded(
    registry: Registry, add: AddVersion
) -> None:
    await add("sql", alias="prod")
    with pytest.raises(NameTaken, match="means a version"):
        await add("mine", lora_name="sql@prod")
    await registry.delete_alias("sql", "prod")
    loaded = await add("mine", lora_name="sql@prod")
    with pytest.raises(NameTaken, match="is the name of another adapter"):
        await registry.move_alias("sql", "prod", 1)
    assert registry.catalog.find("sql@prod") == loaded


async def test_a_deleted_adapter_is_loaded_again_under_both_its_names(registry: Registry, add: AddVersion) -> None:
    await add("acme-sql", project="other")
    name = await registry.name_to_load("acme/sql", "acme")
    assert name == name_for("acme/sql", is_taken=True)  # the plain one belongs to another project
    await add(name, project="acme", lora_name="acme/sql")
    await registry.delete_adapter(name)
    with pytest.raises(NameNotAllowed):
        await registry.name_to_load("acme/sql", "other")
    assert await registry.name_to_load("acme/sql", "acme") == name
    assert (await add(name, project="acme", lora_name="acme/sql")).number == 2
    assert registry.catalog.find("acme/sql").name == f"{name}@2"


async def test_a_deleted_adapter_that_comes_back_by_its_own_name_keeps_the_other_one(
    registry: Registry, add: AddVersion
) -> None:
    await add("acme-sql", project="acme", lora_name="acme/sql")
    await registry.delete_adapter("acme-sql")
    assert await registry.name_to_load("acme:sql", "acme") == name_for("acme:sql", is_taken=True)
    await add("acme-sql", project="acme")
    assert registry.catalog.find("acme/sql").name == "acme-sql@2"
    with pytest.raises(NameNotAllowed):
        await registry.name_to_load("acme/sql", "globex")
