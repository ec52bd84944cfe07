"""White space in structured output: one space at once, so that small models end and trained adapters keep theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer
from vllm.v1.structured_output.backend_guidance import GuidanceBackend
from vllm.v1.structured_output.backend_types import StructuredOutputOptions
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

import embedded
from server.engine.vllm.white_space import limited_compiler, limited_schemas

SCHEMA = {
    "type": "object",
    "properties": {"item": {"type": "string"}, "sizes": {"type": "array", "items": {"type": "integer"}}},
    "required": ["item", "sizes"],
    "additionalProperties": False,
}
VALUE = {"item": "hats", "sizes": [1, 2]}

Accepts = Callable[[str], bool]
Start = Callable[..., Accepts]


@pytest.fixture(params=[XgrammarBackend, GuidanceBackend])
def start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a patched backend; returns whether the grammar of a schema accepts the tokens of a text."""
    kind, tokenizer = request.param, AutoTokenizer.from_pretrained(embedded.BASE)
    monkeypatch.setattr(XgrammarBackend, "__post_init__", limited_compiler(XgrammarBackend.__post_init__))
    monkeypatch.setattr(GuidanceBackend, "compile_grammar", limited_schemas(GuidanceBackend.compile_grammar))

    def started(backend: str, schema: dict[str, Any] | None = SCHEMA) -> Accepts:
        chosen = SimpleNamespace(backend=backend, disable_any_whitespace=False, disable_additional_properties=False)
        config: Any = SimpleNamespace(structured_outputs_config=chosen, model_config=None, speculative_config=None)
        compiler = kind(config, tokenizer=tokenizer, vocab_size=len(tokenizer))
        option = StructuredOutputOptions.JSON_OBJECT if schema is None else StructuredOutputOptions.JSON

        def accepts(text: str) -> bool:
            grammar = compiler.compile_grammar(option, json.dumps(schema or {"type": "object"}))
            return bool(grammar.accept_tokens("request", tokenizer.encode(text, add_special_tokens=False)))

        return accepts

    return started


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (",", ": ")])
@pytest.mark.parametrize("schema", [SCHEMA, None])
def test_json_with_and_without_spaces_is_written(
    start: Start, separators: tuple[str, str], schema: dict[str, Any] | None
) -> None:
    assert start("auto", schema)(json.dumps(VALUE, separators=separators))


@pytest.mark.parametrize("gap", ["  ", "   ", "\n\n", " " * 20, "\n" + " " * 8])
@pytest.mark.parametrize("place", ['{%s"item"', '{"item":%s"hats"', '{"item": "hats",%s"sizes"'])
def test_more_white_space_is_not_written_unless_the_operator_names_a_backend(
    start: Start, place: str, gap: str
) -> None:
    assert not start("auto")(place % gap)
    assert start("named")(place % gap)
