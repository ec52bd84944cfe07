"""The schemas of items: what they find, and what a hostile one costs."""

from __future__ import annotations

from typing import Any

import pytest

import trainer.evals.item_schema as item_schema
from trainer.errors import InvalidField
from trainer.evals.faults import MAX_LISTED, Faults
from trainer.evals.item_schema import check_items, check_schema

Json = dict[str, Any]


def faults_of(schema: Json, *items: Json) -> list[str]:
    check_schema(schema, "item_schema")
    faults = Faults()
    check_items(schema, [(f"items.{number}", item) for number, item in enumerate(items)], faults)
    return [fault.message for fault in faults.listed]


def test_each_fault_names_its_item_and_its_place() -> None:
    schema = {
        "type": "object",
        "properties": {"turns": {"type": "array", "items": {"$ref": "#/$defs/turn"}}, "n": {"minimum": 3}},
        "required": ["turns"],
        "$defs": {"turn": {"type": "object", "required": ["role"]}},
    }
    assert faults_of(schema, {"turns": [{"role": "user"}], "n": 3}) == []
    first, second, third = faults_of(schema, {}, {"turns": [{"role": "u"}, {}]}, {"turns": [], "n": 2})
    assert first.startswith("items.0: 'turns' is a required property")
    assert second.startswith("items.1.turns.1: 'role' is a required property")
    assert third.startswith("items.2.n: 2 is less than the minimum of 3")


def test_names_of_properties_are_no_keywords() -> None:
    assert faults_of({"properties": {"pattern": {"type": "string"}, "$id": {}}}, {"pattern": "(a+)+", "$id": 1}) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": "(a+)+$"}}},
        {"patternProperties": {"(a+)+$": {}}},
        {"allOf": [{"anyOf": [{"uniqueItems": True}]}]},
        {"$defs": {"a": {"$ref": "file:///etc/passwd"}}},
        {"$ref": "https://example.com/schema"},
        {"$id": "https://example.com/", "$ref": "other"},
        {"$ref": 3},
        {"typo": 1},
        {"type": "nothing"},
        {"properties": 3},
        {"required": "a"},
    ],
)
def test_a_schema_that_cannot_be_checked_safely_is_refused(schema: Json) -> None:
    with pytest.raises(InvalidField) as refused:
        check_schema(schema, "item_schema")
    assert refused.value.param == "item_schema"


@pytest.mark.parametrize(
    "schema", [{"$ref": "#"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, {"$ref": "#/$defs/none"}]
)
def test_a_reference_without_an_end_is_refused_once_an_item_is_checked(schema: Json) -> None:
    with pytest.raises(InvalidField, match=r"refers to itself|leads nowhere"):
        faults_of(schema, {"a": 1})


def test_a_schema_that_takes_time_exponential_in_its_size_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_schema, "MAX_S", 0.05)
    defs: Json = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    with pytest.raises(InvalidField, match="to check: send fewer"):
        faults_of({"$ref": "#/$defs/d0", "$defs": {**defs, "d40": {"type": "object"}}}, {})


def test_a_schema_that_takes_seconds_to_check_is_refused() -> None:
    long = {"properties": {f"key-{number}": {"type": "string"} for number in range(20_000)}}
    with pytest.raises(InvalidField, match="at most 65536"):
        check_schema(long, "item_schema")


def test_a_deeply_nested_schema_is_refused() -> None:
    schema: Json = {}
    for _ in range(5_000):
        schema = {"not": schema}
    with pytest.raises(InvalidField, match="nested too deeply"):
        check_schema(schema, "item_schema")


def test_the_number_of_listed_faults_is_bounded() -> None:
    faults = Faults()
    check_items({"required": ["a"]}, [("items", {})] * 100, faults)
    with pytest.raises(InvalidField, match=f"{100 - MAX_LISTED} more faults are not listed"):
        faults.check()
