"""The parsers of tool calls and of reasoning that a base model gets where the operator names none."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

import embedded
from server.engine.protocol import StartRefused
from server.engine.vllm.flags import parse_flags
from server.engine.vllm.parsers import CALL_FORMATS, REASONING_PARSERS, check_parsers, choose_parsers

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
JSON_CALLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML + "<tool_call>\n{{ calls }}\n</tool_call>"
XML_CALLS = "{% if tools %}{{ tools }}{% endif %}" + CHATML + "<tool_call>\n<function={{ name }}>\n</function>"
LLAMA_CALLS = '{% if tools %}Respond as {"name": name, "parameters": dictionary of arguments}{% endif %}' + CHATML
PYTHON_CALLS = "{% if tools %}Put it in the format of [func_name1(params_name1=value)]{% endif %}" + CHATML
HYBRID = (
    JSON_CALLS + "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPENED = JSON_CALLS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"

FAMILIES = [
    ("qwen3", "qwen3-8b", JSON_CALLS, "hermes"),
    ("qwen2", "qwen2.5-7b-instruct", JSON_CALLS, "hermes"),
    ("llama", "hermes-3-llama-3.1-8b", JSON_CALLS, "hermes"),
    ("qwen3_moe", "qwen3-coder-30b-a3b-instruct", XML_CALLS, "qwen3_xml"),
    ("nemotron_h", "nemotron-3-nano", XML_CALLS, "qwen3_xml"),
    ("llama", "llama-3.1-8b-instruct", LLAMA_CALLS, "llama3_json"),
    ("llama4", "llama-4-scout", PYTHON_CALLS, "llama4_pythonic"),
    ("llama", "llama-3.2-1b-instruct", PYTHON_CALLS, "pythonic"),
    ("mistral", "mistral-7b-instruct-v0.3", "{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", "mistral"),
    ("llama", "llama-xlam-2-8b-fc-r", JSON_CALLS, "xlam"),
    ("glm4_moe", "glm-4.5-air", "{{ tools }}<tool_call>{{ name }}\n<arg_key>{{ k }}</arg_key>", "glm45"),
    ("granitemoehybrid", "granite-4.0-h-small", JSON_CALLS, "granite4"),
    ("granite", "granite-3.1-8b-instruct", "{{ tools }}<|tool_call|>", "granite"),
    ("gpt_oss", "gpt-oss-20b", "<|channel|>", "openai"),
    ("kimi_k2", "kimi-k2-instruct", "{{ tools }}<|tool_calls_section_begin|>", "kimi_k2"),
    ("deepseek_v3", "deepseek-v3-0324", "{{ tools }}<｜tool▁calls▁begin｜>\n```json\n", "deepseek_v3"),
    ("deepseek_v3", "deepseek-v3.1", "{{ tools }}<｜tool▁calls▁begin｜>", "deepseek_v31"),
    ("minimax_m2", "minimax-m2", "{{ tools }}<minimax:tool_call>", "minimax_m2"),
    ("seed_oss", "seed-oss-36b", "{{ tools }}<seed:tool_call>\n<function=", "seed_oss"),
    ("olmo3", "olmo-3-7b-instruct", "{{ tools }}<function_calls>", "olmo3"),
    ("phi3", "phi-4-mini-instruct", "{{ tools }}<|tool|>", "phi4_mini_json"),
    ("hunyuan_v1_moe", "hunyuan-a13b", "{{ tools }}<tool_calls>", "hunyuan_a13b"),
    ("lfm2", "lfm2-1.2b", "{{ tools }}<|tool_call_start|>", "lfm2"),
    # templates that take no tools, and formats that nobody knows
    ("qwen3", "qwen3-base", CHATML, None),
    ("llama", "llama-2-7b-chat", CHATML, None),
    ("deepseek_v3", "deepseek-v3", "<｜tool▁calls▁begin｜>\n```json\n", None),
    ("mistral", "zephyr-7b", CHATML, None),
    ("gemma3", "gemma-3-4b-it", "{% if tools %}{{ tools }}{% endif %}" + CHATML, None),
    ("nobody", "nobody-1b", "{{ tools }}<invoke>", None),
    ("nobody", "nobody-1b", "{{ tools }}<tool_call><arg_key>", None),
]


def base(
    directory: Path, model_type: str, template: str | list[dict[str, str]] | None, tokens: str = "<think></think>"
) -> Path:
    """Write what is read of a base model's directory."""
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    (directory / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": tokens}]}))
    return directory


def chosen(directory: Path, *flags: str, name: str = "org/model") -> Namespace:
    args = parse_flags(name, flags, capacity=8)
    choose_parsers(args, directory)
    check_parsers(args)
    return args


@pytest.mark.parametrize(("model_type", "name", "template", "parser"), FAMILIES)
def test_the_tool_parser_is_that_of_the_family(
    tmp_path: Path, model_type: str, name: str, template: str, parser: str | None
) -> None:
    args = chosen(base(tmp_path, model_type, template), name=f"org/{name}")
    assert (args.tool_call_parser, args.enable_auto_tool_choice) == (parser, parser is not None)


def test_vllm_has_every_parser_of_the_tables() -> None:
    for known in CALL_FORMATS:
        assert ToolParserManager.get_tool_parser(known.parser)
    for parser in (*REASONING_PARSERS.values(), "openai_gptoss"):
        assert ReasoningParserManager.get_reasoning_parser(parser)


def test_the_operator_s_parser_wins(tmp_path: Path) -> None:
    directory = base(tmp_path, "qwen3", OPENED)
    args = chosen(directory, "--tool-call-parser", "pythonic", "--reasoning-parser", "glm45")
    assert (args.tool_call_parser, args.reasoning_parser, args.enable_auto_tool_choice) == ("pythonic", "glm45", False)
    args = chosen(directory, "--structured-outputs-config", '{"reasoning_parser": "glm45"}')
    assert args.structured_outputs_config.reasoning_parser == "glm45"


def test_the_operator_s_chat_template_and_tokenizer_decide(tmp_path: Path) -> None:
    directory, tokenizer, template = tmp_path / "base", tmp_path / "tokenizer", tmp_path / "template.jinja"
    for each, text in ((directory, CHATML), (tokenizer, JSON_CALLS)):
        each.mkdir()
        base(each, "qwen3", text)
    template.write_text(XML_CALLS)
    assert chosen(directory).tool_call_parser is None
    assert chosen(directory, "--tokenizer", str(tokenizer)).tool_call_parser == "hermes"
    assert chosen(directory, "--chat-template", str(template)).tool_call_parser == "qwen3_xml"


def test_a_template_in_a_file_of_its_own_and_several_templates_are_read(tmp_path: Path) -> None:
    several = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": JSON_CALLS}]
    assert chosen(base(tmp_path, "llama", several)).tool_call_parser == "hermes"
    (tmp_path / "chat_template.jinja").write_text(LLAMA_CALLS)
    assert chosen(tmp_path).tool_call_parser == "llama3_json"


def test_mistral_s_own_tokenizer_needs_no_template(tmp_path: Path) -> None:
    base(tmp_path, "mistral", None)
    assert chosen(tmp_path).tool_call_parser is None
    (tmp_path / "tekken.json").write_text("{}")
    assert chosen(tmp_path).tool_call_parser == "mistral"


@pytest.mark.parametrize(
    ("model_type", "template", "flags", "tokens", "parser"),
    [
        ("qwen3", OPENED, (), "</think>", "qwen3"),
        ("qwen2", OPENED, (), "</think>", "deepseek_r1"),
        ("llama", OPENED, (), "</think>", "deepseek_r1"),
        ("glm4_moe", OPENED, (), "</think>", "glm45"),
        ("gpt_oss", "<|channel|>", (), "", "openai_gptoss"),
        ("qwen3", HYBRID, (), "</think>", ""),
        ("qwen3", JSON_CALLS, (), "</think>", ""),
        ("qwen3", OPENED, (), "", ""),
        ("qwen3", "{{ raise_exception('<think>') }}", (), "</think>", ""),
        (
            "qwen3",
            OPENED.replace("<think>\n{%", "{% if deep %}<think>{% endif %}{%"),
            ("--default-chat-template-kwargs", '{"deep": true}'),
            "</think>",
            "qwen3",
        ),
    ],
)
def test_a_reasoning_parser_is_chosen_where_the_prompt_opens_the_thought(
    tmp_path: Path, model_type: str, template: str, flags: tuple[str, ...], tokens: str, parser: str
) -> None:
    args = chosen(base(tmp_path, model_type, template, tokens), *flags)
    assert args.structured_outputs_config.reasoning_parser == parser


PLUGIN = """
from vllm.tool_parsers import ToolParser, ToolParserManager

@ToolParserManager.register_module("ours")
class Ours(ToolParser):
    pass
"""


def test_a_plugin_of_the_operator_is_imported(tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text(PLUGIN)
    flags = (
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "ours",
        "--tool-parser-plugin",
        str(tmp_path / "ours.py"),
    )
    assert chosen(base(tmp_path, "llama", CHATML), *flags).tool_call_parser == "ours"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--enable-auto-tool-choice", "--tool-call-parser", "hermez"), "hermez"),
        (("--tool-call-parser", "hermez"), "hermez"),
        (("--reasoning-parser", "qwen4"), "qwen4"),
        (("--tool-parser-plugin", "/nowhere/plugin.py", "--tool-call-parser", "theirs"), "theirs"),
    ],
)
def test_a_parser_that_does_not_exist_is_refused_at_once(tmp_path: Path, flags: tuple[str, ...], reason: str) -> None:
    with pytest.raises(StartRefused, match=reason):
        chosen(base(tmp_path, "llama", CHATML), *flags)


def test_a_directory_without_any_file_has_no_family(tmp_path: Path) -> None:
    args: Any = chosen(tmp_path)
    assert (args.tool_call_parser, args.reasoning_parser) == (None, "")


def test_the_embedded_base_s_calls_are_read() -> None:
    args = chosen(embedded.BASE)
    assert (args.tool_call_parser, args.structured_outputs_config.reasoning_parser) == ("hermes", "")
