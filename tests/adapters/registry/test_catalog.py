from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from adapters.errors import AdapterNotFound, AliasNotFound, VersionNotFound
from adapters.names import FineTunedName, Reference
from adapters.registry.catalog import Catalog
from adapters.versions import Adapter, Alias, Version

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def adapter(name: str, numbers: range = range(1, 2), pinned: tuple[int, ...] = (), **aliases: int) -> Adapter:
    return Adapter(
        name,
        NOW,
        {n: Version(n, name, n, f"{n:064}", "base", 8, 1, "upload", NOW, n in pinned) for n in numbers},
        {alias: Alias(name, alias, n, 1, NOW) for alias, n in aliases.items()},
    )


def catalog_of(*adapters: Adapter) -> Catalog:
    catalog = Catalog()
    catalog.replace(adapters, ())
    return catalog


@pytest.mark.parametrize(("reference", "number"), [("sql", 2), ("sql@stable", 2), ("sql@canary", 3), ("sql@1", 1)])
def test_a_reference_resolves_to_its_version(reference: str, number: int):
    catalog = catalog_of(adapter("sql", range(1, 4), stable=2, canary=3))
    assert catalog.resolve(Reference.parse(reference)).number == number


def test_an_unknown_adapter_is_not_found():
    with pytest.raises(AdapterNotFound, match="'sql'"):
        catalog_of().resolve(Reference("sql"))


def test_an_unknown_version_is_answered_with_the_newest_that_exist():
    catalog = catalog_of(adapter("sql", range(1, 9)))
    with pytest.raises(VersionNotFound, match=r"its versions: 8, 7, 6, 5, 4 and 3 more$"):
        catalog.resolve(Reference("sql", version=99))


def test_an_unknown_alias_is_answered_with_those_that_exist():
    catalog = catalog_of(adapter("sql", canary=1))
    with pytest.raises(AliasNotFound, match=r"its aliases: 'canary'; its versions: 1$"):
        catalog.resolve(Reference("sql"))


def test_a_fine_tuned_name_resolves_to_the_version_it_means_as_it_is_now():
    name = FineTunedName("ft:base:patchbay::abc")
    named = replace(adapter("sql", range(1, 3)), fine_tuned={name.text: 2})
    catalog = catalog_of(named)
    assert catalog.resolve(name) == named.versions[2]

    pinned = replace(adapter("sql", range(1, 3), pinned=(2,)), fine_tuned={name.text: 2})
    catalog.replace([pinned], ())
    assert catalog.resolve(name).is_pinned

    catalog.replace([adapter("sql", range(1, 2))], ())
    with pytest.raises(AdapterNotFound, match=f"no version is named '{name}'"):
        catalog.resolve(name)


def test_ten_thousand_adapters_are_paged_by_name_without_gap_or_repetition():
    names = [f"adapter-{i:05}" for i in range(10_000)]
    catalog = catalog_of(*(adapter(name) for name in reversed(names)))
    seen: list[str] = []
    has_more = True
    while has_more:
        page, has_more = catalog.adapters(seen[-1] if seen else None, 200)
        assert len(page) <= 200
        seen += [found.name for found in page]
    assert seen == names


def test_paging_goes_on_behind_a_name_that_is_gone():
    catalog = catalog_of(adapter("a"), adapter("b"), adapter("c"))
    catalog.replace((), ["b"])
    assert [found.name for found in catalog.adapters("b", 10)[0]] == ["c"]


def test_the_last_page_says_that_nothing_follows():
    catalog = catalog_of(adapter("a"), adapter("b"))
    assert [has_more for _, has_more in (catalog.adapters(None, 1), catalog.adapters("a", 1))] == [True, False]


def test_versions_are_paged_by_number():
    catalog = catalog_of(adapter("sql", range(1, 8)))
    first, has_more = catalog.versions("sql", None, 5)
    rest, has_still_more = catalog.versions("sql", 5, 5)
    assert [v.number for v in first + rest] == [1, 2, 3, 4, 5, 6, 7]
    assert (has_more, has_still_more) == (True, False)


def test_replacing_an_adapter_replaces_its_pins():
    catalog = catalog_of(adapter("sql", range(1, 4), pinned=(1, 2)))
    catalog.replace([adapter("sql", range(1, 4), pinned=(3,))], ())
    assert [version.number for version in catalog.pinned()] == [3]
    assert len(catalog) == 1


def test_a_deletion_of_something_unknown_is_no_news():
    catalog = catalog_of()
    catalog.replace((), ["never-seen"])
    assert len(catalog) == 0


def test_names_of_the_load_call_move_between_adapters_in_one_replacement():
    one, two = adapter("one", stable=1), adapter("two", stable=1)
    catalog = catalog_of(replace(one, lora_name="a/b"), replace(two, lora_name="c/d"))
    catalog.replace([replace(one, lora_name="c/d"), replace(two, lora_name="a/b")], ())
    assert [catalog.find(name).adapter for name in ("a/b", "c/d")] == ["two", "one"]
