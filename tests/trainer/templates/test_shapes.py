"""Each template writes what the family that it stands for is known for, and refuses what that family refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
from transformers import AutoTokenizer

from tests.trainer.templates.shapes import SHAPES

Render = Callable[..., str]
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "Weather?"}
THOUGHTFUL = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nRain."}
PLAIN = {"role": "assistant", "content": "Rain."}
THANKS = {"role": "user", "content": "Thanks."}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "call_00000001", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    ],
}
TWO_CALLS = CALL | {"tool_calls": CALL["tool_calls"] * 2}
RESULT = {"role": "tool", "tool_call_id": "call_00000001", "content": "rain"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("shapes")
    return {name: shape.write_base(root / name) for name, shape in SHAPES.items()}


@pytest.fixture
def render(bases: dict[str, Path]) -> Render:
    def rendered(shape: str, *messages: dict[str, Any], asking: bool = True, **options: Any) -> str:
        tokenizer = AutoTokenizer.from_pretrained(bases[shape], local_files_only=True)
        return str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asking, **options)
        )

    return rendered


@pytest.mark.parametrize("shape", SHAPES)
def test_the_special_tokens_of_a_shape_are_single_tokens(bases: dict[str, Path], shape: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bases[shape], local_files_only=True)
    assert tokenizer.eos_token == SHAPES[shape].end
    assert tokenizer.bos_token == SHAPES[shape].bos
    assert len(tokenizer.encode(SHAPES[shape].start + SHAPES[shape].end, add_special_tokens=False)) == 2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("talk", [(ASKED,), (SYSTEM, ASKED), (SYSTEM, ASKED, PLAIN, THANKS)])
def test_each_shape_renders_a_plain_conversation_and_its_end_of_turn(render: Render, shape: str, talk: Any) -> None:
    prompt = render(shape, *talk)
    whole = render(shape, *talk, PLAIN, asking=False)
    assert "Weather?" in prompt
    assert whole.rstrip("\n").endswith("Rain." + SHAPES[shape].end)
    assert prompt.startswith(SHAPES[shape].bos or "")


def test_qwen3_opens_a_thought_in_the_last_answer_and_drops_those_of_earlier_ones(render: Render) -> None:
    assert render("qwen3", ASKED) == "<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n"
    assert render("qwen3", ASKED, enable_thinking=False).endswith("assistant\n<think>\n\n</think>\n\n")
    assert render("qwen3", ASKED, PLAIN, asking=False).endswith("<think>\n\n</think>\n\nRain.<|im_end|>\n")
    assert "<think>\nHm.\n</think>\n\nRain." in render("qwen3", ASKED, THOUGHTFUL, asking=False)
    assert "Hm." not in render("qwen3", ASKED, THOUGHTFUL, THANKS)


def test_qwen3_writes_tools_calls_and_results(render: Render) -> None:
    text = render("qwen3", SYSTEM, ASKED, TWO_CALLS, RESULT, RESULT, tools=[TOOL])
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert f"{call}\n{call}<|im_end|>" in text
    assert text.count("<|im_start|>user\n<tool_response>\nrain\n</tool_response>\n<tool_response>") == 1


def test_llama3_has_a_date_and_puts_tools_where_the_flag_says(render: Render) -> None:
    assert "Today: 26 Jul 2024" in render("llama3", ASKED)
    assert "Today: 1 Jan 2026" in render("llama3", ASKED, date_string="1 Jan 2026")
    for flag in (True, False):
        system, user, _ = render("llama3", ASKED, tools=[TOOL], tools_in_user_message=flag).split("<|eot_id|>")
        assert ('"weather"' in user, '"weather"' in system) == (flag, not flag)


def test_llama3_answers_results_as_ipython_and_takes_one_call_a_turn(render: Render) -> None:
    text = render("llama3", ASKED, CALL, RESULT, tools=[TOOL])
    assert '{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>' in text
    assert '<|start_header_id|>ipython<|end_header_id|>\n\n"rain"<|eot_id|>' in text
    with pytest.raises(jinja2.TemplateError, match="Only one call"):
        render("llama3", ASKED, TWO_CALLS, tools=[TOOL])


def test_mistral_moves_system_prompt_and_tools_to_the_last_question(render: Render) -> None:
    first = render("mistral", SYSTEM, ASKED, tools=[TOOL])
    later = render("mistral", SYSTEM, ASKED, PLAIN, THANKS, tools=[TOOL])
    assert first.startswith('<s>[AVAILABLE_TOOLS] [{"type": "function"')
    assert first.endswith("[/AVAILABLE_TOOLS][INST] Be brief.\n\nWeather?[/INST]")
    assert later.startswith("<s>[INST] Weather?[/INST] Rain.</s>[AVAILABLE_TOOLS]")


def test_mistral_writes_calls_with_their_ids_and_keeps_strict_turns(render: Render) -> None:
    text = render("mistral", ASKED, CALL, RESULT, PLAIN, THANKS, tools=[TOOL])
    assert '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}, "id": "_00000001"}]</s>' in text
    assert '[TOOL_RESULTS] {"content": "rain", "call_id": "_00000001"}[/TOOL_RESULTS] Rain.</s>' in text
    for talk in [(ASKED, THANKS), (PLAIN, ASKED), (ASKED, SYSTEM)]:
        with pytest.raises(jinja2.TemplateError):
            render("mistral", *talk)


def test_gemma_merges_the_system_prompt_and_keeps_strict_turns(render: Render) -> None:
    text = render("gemma", SYSTEM, ASKED, PLAIN, THANKS)
    assert text.startswith("<bos><start_of_turn>user\nBe brief.\n\nWeather?<end_of_turn>\n<start_of_turn>model\nRain.")
    for talk in [(ASKED, THANKS), (PLAIN, ASKED), (ASKED, CALL, RESULT)]:
        with pytest.raises(jinja2.TemplateError):
            render("gemma", *talk)


def test_deepseek_r1_opens_a_thought_in_the_prompt_and_keeps_none_in_answers(render: Render) -> None:
    assert render("deepseek_r1", ASKED).endswith("<|Assistant|><think>\n")
    assert render("deepseek_r1", ASKED, THOUGHTFUL, asking=False).endswith("<|Assistant|>\n\nRain.<|end_of_sentence|>")
