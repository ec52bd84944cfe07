"""White space in structured output: one space at once, so that small models end and trained adapters keep theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionToolsParam
from vllm.tool_parsers.structural_tag_registry import get_model_structural_tag
from vllm.v1.structured_output.backend_guidance import GuidanceBackend
from vllm.v1.structured_output.backend_types import StructuredOutputOptions
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

import embedded
from server.engine.vllm.white_space import limited_compiler, limited_schemas, limited_tag

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
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def start(kind: Any, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a patched backend; returns whether the grammar of a schema or of a tag accepts the tokens of a text."""
    tokenizer = AutoTokenizer.from_pretrained(embedded.BASE)
    monkeypatch.setattr(XgrammarBackend, "__post_init__", limited_compiler(XgrammarBackend.__post_init__))
    monkeypatch.setattr(GuidanceBackend, "compile_grammar", limited_schemas(GuidanceBackend.compile_grammar))

    def started(backend: str, schema: dict[str, Any] | None = SCHEMA, *, tag: str | None = None) -> Accepts:
        chosen = SimpleNamespace(backend=backend, disable_any_whitespace=False, disable_additional_properties=False)
        config: Any = SimpleNamespace(structured_outputs_config=chosen, model_config=None, speculative_config=None)
        compiler = kind(config, tokenizer=tokenizer, vocab_size=len(tokenizer))
        option = StructuredOutputOptions.JSON_OBJECT if schema is None else StructuredOutputOptions.JSON
        if tag is not None:
            option = StructuredOutputOptions.STRUCTURAL_TAG

        def accepts(text: str) -> bool:
            grammar = compiler.compile_grammar(option, tag or json.dumps(schema or {"type": "object"}))
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


CALL = '<tool_call>\n{"name": "order", "arguments": %s}\n</tool_call>'
FUNCTION = {"type": "function", "function": {"name": "order", "strict": True, "parameters": SCHEMA}}
LEGACY = {
    "structures": [{"begin": CALL.partition("%s")[0], "schema": SCHEMA, "end": CALL.partition("%s")[2]}],
    "triggers": ["<tool_call>"],
}


def tag_of(choice: Any) -> str:
    """The structural tag with which vLLM constrains a call of a tool, in the format of the embedded base."""
    tools: Any = [ChatCompletionToolsParam.model_validate(FUNCTION)]
    tag = get_model_structural_tag("hermes", tools=tools, tool_choice=choice, reasoning=False)
    assert tag is not None
    return str(tag.model_dump_json())


@pytest.mark.parametrize("kind", [XgrammarBackend])
@pytest.mark.parametrize("tag", [tag_of("required"), tag_of("auto"), json.dumps(LEGACY)])
def test_a_call_of_a_tool_is_written_without_more_white_space(start: Start, tag: str) -> None:
    for separators in ((",", ":"), (", ", ": ")):
        assert start("auto", tag=tag)(CALL % json.dumps(VALUE, separators=separators))
    for gap in ("  ", "\r \n", " " * 20):
        call = CALL % f'{{"item"{gap}: "hats", "sizes": [1, 2]}}'
        assert not start("auto", tag=tag)(call)
        assert start("named", tag=tag)(call)


def test_a_limit_that_a_tag_names_stays() -> None:
    named = {"type": "json_schema", "json_schema": {"type": "json_schema"}, "max_whitespace_cnt": 3}
    for part in (named, {"type": "json_schema", "json_schema": True, "style": "qwen_xml"}):
        assert limited_tag({"format": {"type": "tag", "content": part}})["format"]["content"] == part
