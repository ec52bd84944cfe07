"""Which of vLLM's parsers read the tool calls and the reasoning of a base model: chosen by its family.

How a family writes a tool call is what its chat template writes for a call of an earlier turn. So a format is known by
its marks in the template, together with the model type where families share marks. Source:
https://docs.vllm.ai/en/latest/features/tool_calling.html
"""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from server.engine.protocol import StartRefused


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How models write tool calls, and vLLM's parser of that format. The patterns are regular expressions."""

    parser: str
    template: str
    """Found in the chat template."""
    model: str = ""
    """Found in ``model_type`` or in the model's name, in lower case."""


CALL_FORMATS: Final = (
    CallFormat("openai", "", "^gpt_oss"),
    CallFormat("deepseek_v32", "", "^deepseek_v32"),
    CallFormat("mistral", r"\[TOOL_CALLS\]"),
    CallFormat("xlam", "", "xlam"),
    CallFormat("llama3_json", r'"parameters": dictionary'),
    CallFormat("llama4_pythonic", r"\[func_name1\(", "^llama4"),
    CallFormat("pythonic", r"\[func_name1\("),
    CallFormat("seed_oss", "<seed:tool_call>"),
    CallFormat("minimax_m2", "<minimax:tool_call>"),
    CallFormat("longcat", "<longcat_tool_call>"),
    CallFormat("dots", "<dots_function_call>"),
    CallFormat("k2_horizon", r"<ifm\|tool_call>"),
    CallFormat("kimi_k2", r"<\|tool_calls_section_begin\|>"),
    CallFormat("deepseek_v3", "(?s)<｜tool▁calls▁begin｜>.*```json"),
    CallFormat("deepseek_v31", "<｜tool▁calls▁begin｜>"),
    CallFormat("functiongemma", "<start_function_call>"),
    CallFormat("gemma4", r"<\|tool_call>"),
    CallFormat("lfm2", r"<\|tool_call_start\|>"),
    CallFormat("internlm", r"<\|plugin\|>", "internlm"),
    CallFormat("apertus", r"<\|tools_prefix\|>"),
    CallFormat("olmo3", "<function_calls>", "olmo"),
    CallFormat("hunyuan_a13b", "<tool_calls>", "hunyuan"),
    CallFormat("jamba", "<tool_calls>", "jamba"),
    CallFormat("phi4_mini_json", r"<\|tool\|>", "phi"),
    CallFormat("glm45", "<arg_key>", "glm"),
    CallFormat("granite4", "<tool_call>", r"^granitemoehybrid|granite-?4"),
    CallFormat("granite", r"<\|?tool_call\|?>", "granite"),
    CallFormat("ernie45", "<tool_call>", "^ernie4_5"),
    CallFormat("mimo", "<tool_call>", "^mimo"),
    CallFormat("step3p5", "<tool_call>", "^step3p5"),
    CallFormat("qwen3_xml", "(?s)<tool_call>.*<function=|<function=.*<tool_call>"),
    CallFormat("hermes", "(?s)<tool_call>(?!.*<arg_key>)"),
)
"""The first that fits is taken."""

REASONING_PARSERS: Final = {
    "^qwen3": "qwen3",
    "^glm": "glm45",
    "^kimi_k2": "kimi_k2",
    "^minimax": "minimax_m2",
    "^nemotron": "nemotron_v3",
    "": "deepseek_r1",
}
"""Pattern of the model type → parser of the text between ``<think>`` and ``</think>``; the first that fits is taken."""


def choose_parsers(args: Namespace, directory: Path) -> None:
    """Fill in the parsers of vLLM's ``args`` that the operator left out, for the base model in ``directory``.

    A reasoning parser is chosen only where the prompt itself opens the thought. Where the model writes ``<think>``
    itself, an adapter that was trained without thoughts never closes one, and all that it says would be reasoning.
    """
    source = Path(args.tokenizer) if args.tokenizer and Path(args.tokenizer).is_dir() else directory
    model_type = _model_type(directory)
    template = _chat_template(args.chat_template, source)
    if args.tool_call_parser is None:
        is_mistral = not template and (source / "tekken.json").is_file()  # Mistral's tokenizer has no template
        args.tool_call_parser = "mistral" if is_mistral else tool_parser_of(model_type, args.model.lower(), template)
        args.enable_auto_tool_choice = args.tool_call_parser is not None
    config = args.structured_outputs_config
    if not (args.reasoning_parser or config.reasoning_parser):
        kwargs = args.default_chat_template_kwargs or {}
        args.reasoning_parser = reasoning_parser_of(model_type, template, kwargs, source) or ""


def tool_parser_of(model_type: str, name: str, template: str) -> str | None:
    """Return vLLM's parser for the tool calls of a model; None if its format is unknown, or if it takes no tools."""
    for known in CALL_FORMATS:
        is_family = not known.model or any(re.search(known.model, text) for text in (model_type, name))
        takes_tools = not known.template or re.search(r"\btools\b", template)
        if is_family and takes_tools and re.search(known.template, template):
            return known.parser
    return None


def reasoning_parser_of(model_type: str, template: str, kwargs: dict[str, Any], tokenizer: Path) -> str | None:
    """Return vLLM's parser for the reasoning of a model; None where no prompt opens a thought.

    Args:
        kwargs: the operator's arguments for the template.
        tokenizer: the directory of the tokenizer's files.
    """
    if model_type == "gpt_oss":
        return "openai_gptoss"
    if "<think>" not in template or not _has_token("</think>", tokenizer):
        return None
    if not _generation_prompt(template, kwargs).rstrip().endswith("<think>"):
        return None
    return next(parser for pattern, parser in REASONING_PARSERS.items() if re.search(pattern, model_type))


def check_parsers(args: Namespace) -> None:
    """Import the operator's parser plugins, and find each parser that ``args`` name.

    Raises:
        StartRefused: a plugin cannot be imported, or a parser does not exist.
    """
    from vllm.entrypoints.launchers.launcher import validate_api_server_args
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    config = args.structured_outputs_config
    config.reasoning_parser = args.reasoning_parser or config.reasoning_parser
    try:
        if args.tool_parser_plugin:
            ToolParserManager.import_tool_parser(args.tool_parser_plugin)
        if args.reasoning_parser_plugin:
            ReasoningParserManager.import_reasoning_parser(args.reasoning_parser_plugin)
        validate_api_server_args(args)
        if args.tool_call_parser is not None:
            ToolParserManager.get_tool_parser(args.tool_call_parser)
        if config.reasoning_parser:
            ReasoningParserManager.get_reasoning_parser(config.reasoning_parser)
    except Exception as why:  # plugins run the operator's code, and parsers import optional packages
        raise StartRefused(f"vLLM's flags: a parser cannot be used: {why}") from why


def _model_type(directory: Path) -> str:
    return str(_json(directory / "config.json").get("model_type", ""))


def _chat_template(chosen: str | None, tokenizer: Path) -> str:
    """Return the text of the chat template that serves, of all templates where there are several; empty without one."""
    if chosen is not None:
        from vllm.renderers.chat_utils import load_chat_template

        return load_chat_template(chosen) or ""
    with suppress(OSError):
        return (tokenizer / "chat_template.jinja").read_text()
    return "\n".join(_templates_of(_json(tokenizer / "tokenizer_config.json").get("chat_template")))


def _templates_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for named in value:
            yield from _templates_of(named.get("template"))


def _generation_prompt(template: str, kwargs: dict[str, Any]) -> str:
    """Return the prompt of a short conversation; empty if the template cannot render it."""
    from transformers.utils.chat_template_utils import render_jinja_template

    conversation = [{"role": "user", "content": "hello"}]
    with suppress(Exception):  # a template is a program
        rendered, *_ = render_jinja_template(
            [conversation], chat_template=template, **{"add_generation_prompt": True, **kwargs}
        )
        return str(rendered[0])
    return ""


def _has_token(token: str, tokenizer: Path) -> bool:
    files = (tokenizer / name for name in ("tokenizer_config.json", "added_tokens.json", "tokenizer.json"))
    return any(json.dumps(token)[1:-1] in file.read_text() for file in files if file.is_file())


def _json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    return {}
