"""Chat templates and tokenizers that come with an adapter: what differs from the base model's is noted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.checks.tokenizer_notes import tokenizer_notes
from adapters.storage.manifest import TOKENIZER_FILES

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
OTHER = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model's directory with a chat template and a tokenizer of four tokens."""
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    tokenizer = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "<end>"}, {"content": "<user>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return tmp_path


def notes(base: Path, **files: Any) -> list[str]:
    """``files``: name without its ending -> text, or what becomes JSON."""
    sent = {}
    for name, content in files.items():
        ending = "jinja" if name == "chat_template" else "json"
        sent[f"{name}.{ending}"] = (content if isinstance(content, str) else json.dumps(content)).encode()
    assert sent.keys() <= set(TOKENIZER_FILES)
    return list(tokenizer_notes(sent, base))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"chat_template": TEMPLATE},
        {"tokenizer_config": {"chat_template": TEMPLATE + "\n\n", "eos_token": "<end>"}},
        {"tokenizer_config": {"chat_template": [{"name": "default", "template": TEMPLATE}]}},
        {"tokenizer_config": {"eos_token": {"content": "<end>", "lstrip": False}}},
        {"tokenizer_config": {"added_tokens_decoder": {"2": {"content": "<end>"}, "3": {"content": "<user>"}}}},
        {"added_tokens": {"<user>": 3}, "special_tokens_map": {"eos_token": "<end>"}},
        {"tokenizer_config": {"chat_template": None, "eos_token": None, "added_tokens_decoder": None}},
    ],
)
def test_what_is_the_base_models_is_not_noted(base: Path, files: dict[str, Any]) -> None:
    assert notes(base, **files) == []


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template": OTHER},
        {"tokenizer_config": {"chat_template": OTHER}},
        {"chat_template": OTHER, "tokenizer_config": {"chat_template": TEMPLATE}},
        {
            "tokenizer_config": {
                "chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": OTHER}]
            }
        },
    ],
)
def test_another_chat_template_is_noted(base: Path, files: dict[str, Any]) -> None:
    [note] = notes(base, **files)
    assert "chat template that differs from the base model's" in note


def test_a_base_model_without_a_template_differs_from_any(base: Path) -> None:
    (base / "chat_template.jinja").unlink()
    assert len(notes(base, chat_template=TEMPLATE)) == 1


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens": {"<user>": 3, "<tool>": 4}},
        {"tokenizer_config": {"added_tokens_decoder": {"4": {"content": "<tool>"}, "2": {"content": "<end>"}}}},
    ],
)
def test_tokens_that_the_base_model_lacks_are_noted(base: Path, files: dict[str, Any]) -> None:
    assert notes(base, **files) == [
        'its tokenizer has 1 tokens that the base model\'s lacks, such as "<tool>": they are not used'
    ]


def test_another_end_of_an_answer_is_noted(base: Path) -> None:
    expected = ['its tokenizer ends an answer with "<eot>", the base model\'s with "<end>"']
    assert notes(base, special_tokens_map={"eos_token": "<eot>"}) == expected
    assert notes(base, tokenizer_config={"eos_token": {"content": "<eot>"}}) == expected


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["chat_template", "eos_token", "added_tokens_decoder", "content", "default"])
objects = st.dictionaries(keys, anything, max_size=3).map(lambda value: json.dumps(value).encode())


@given(
    files=st.dictionaries(
        st.sampled_from(TOKENIZER_FILES),
        st.binary(max_size=30) | objects,
    )
)
def test_files_of_any_content_are_compared_without_an_error(files: dict[str, bytes]) -> None:
    assert all(note.isprintable() for note in tokenizer_notes(files, Path("no-such-directory")))
