from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import InvalidName
from adapters.names import (
    FineTunedName,
    Reference,
    check_adapter_name,
    check_lora_name,
    is_adapter_name,
    name_for,
    parse_reference,
)

parts = st.text(st.characters(min_codepoint=ord("!"), max_codepoint=ord("~"), exclude_characters=":"), max_size=20)


@pytest.mark.parametrize(
    ("text", "is_checkpoint"),
    [
        ("ft:base:patchbay:sql:9ABel2dg", False),
        ("ft:base:patchbay::9ABel2dg", False),
        ("ft:base:patchbay:sql:9ABel2dg:ckpt-step-88", True),
        ("ft:base:patchbay::9ABel2dg:ckpt-step-88", True),
        ("ft:Qwen/Qwen3-8B:patchbay:sql:9ABel2dg", False),
        ("ft:ollama:qwen3:8b:patchbay:sql:9ABel2dg:ckpt-step-88", True),
        ("ft:gpt-4o-mini-2024-07-18:my-org:custom_suffix:9ABel2dg:ckpt-step-88", True),
    ],
)
def test_what_begins_with_ft_is_a_fine_tuned_name(text: str, is_checkpoint: bool):
    named = parse_reference(text)
    assert isinstance(named, FineTunedName)
    assert (str(named), named.is_checkpoint) == (text, is_checkpoint)


@pytest.mark.parametrize(
    "text",
    [
        "ft:",
        "ft:base:patchbay:sql",
        "ft::patchbay:sql:job",
        "ft:base::sql:job",
        "ft:base:patchbay:sql:",
        "ft:base:patchbay:sql:ckpt-step-88",
        "ft:base:patchbay:sql:job:ckpt-step-",
        "ft:base:patchbay:sql:job:ckpt-step-0",
        "ft:base:patchbay:sql:job:ckpt-step-007",
        "ft:base:patchbay:two words:job",
        "ft:base:patchbay:süß:job",
        "ft:base:patchbay:sql:job\n",
        f"ft:{'b' * 500}:patchbay:sql:job",
    ],
)
def test_a_malformed_fine_tuned_name_is_refused_with_the_grammar(text: str):
    with pytest.raises(InvalidName, match="write ft:<base>:<organization>:<suffix>:<job>"):
        parse_reference(text)


def test_anything_else_is_read_as_a_reference():
    assert parse_reference("sql@7") == Reference("sql", version=7)
    assert parse_reference("ft") == Reference("ft")
    with pytest.raises(InvalidName, match="adapter name 'Ft:a:b:c:d'"):
        parse_reference("Ft:a:b:c:d")


@given(base=parts.filter(bool), organization=parts.filter(bool), suffix=parts, step=st.none() | st.integers(1, 10**9))
def test_a_name_that_was_composed_is_read_back(base: str, organization: str, suffix: str, step: int | None):
    named = FineTunedName.of(base, organization, suffix or None, "9ABel2dg", step)
    assert parse_reference(named.text) == named
    assert named.is_checkpoint == (step is not None)


@pytest.mark.parametrize("suffix", ["two words", "a:b", "süß"])
def test_a_suffix_that_the_name_cannot_carry_is_named(suffix: str):
    with pytest.raises(InvalidName, match=f"'{suffix}' cannot be a part") as refused:
        FineTunedName.of("base", "patchbay", suffix, "9ABel2dg")
    assert refused.value.param == "suffix"


def test_a_name_is_composed_as_openai_writes_it():
    assert str(FineTunedName.of("base", "patchbay", None, "9ABel2dg")) == "ft:base:patchbay::9ABel2dg"
    assert str(FineTunedName.of("base", "patchbay", "sql", "9ABel2dg", 88)).endswith(":sql:9ABel2dg:ckpt-step-88")


visible = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=256)
lora_names = visible.filter(
    lambda name: name == name.strip() and not name.startswith("ft:") and not name.endswith("@stable")
)


@given(name=lora_names)
def test_every_lora_name_has_two_adapter_names_of_its_own(name: str):
    assert check_lora_name(name) == name
    plain, certain = name_for(name), name_for(name, is_taken=True)
    assert check_adapter_name(plain) == plain
    assert check_adapter_name(certain) == certain
    assert plain != certain or not any(each.isalnum() for each in name)
    assert parse_reference(f"{plain}@1") == Reference(plain, version=1)


@given(one=lora_names, other=lora_names)
def test_two_lora_names_never_get_the_same_certain_name(one: str, other: str):
    assert one == other or name_for(one, is_taken=True) != name_for(other, is_taken=True)


@given(text=st.text(max_size=300))
def test_what_is_an_adapter_name_is_what_the_check_admits(text: str):
    try:
        check_adapter_name(text)
    except InvalidName:
        assert not is_adapter_name(text)
    else:
        assert is_adapter_name(text)


@pytest.mark.parametrize("name", ["", " sql", "sql\n", "sü/ß", "x" * 257, "ft:a", "sql@stable", "a\0b", "a/\x7f"])
def test_text_that_no_adapter_is_loaded_as_is_refused(name: str):
    with pytest.raises(InvalidName, match="lora_name") as refused:
        check_lora_name(name)
    assert refused.value.param == "lora_name"
    assert refused.value.message.isprintable()
