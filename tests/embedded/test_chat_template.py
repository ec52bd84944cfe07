"""The chat template renders system prompts, tools, turns and the mask of answers; serving and training use it too."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser

from embedded.recipe.tokenizer import encode_chat

LoadedModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]
Message = dict[str, Any]
Render = Callable[..., str]
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def call_of(*arguments: Any) -> Message:
    calls = [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": each}} for each in arguments]
    return {"role": "assistant", "content": None, "tool_calls": calls}


@pytest.fixture
def render(base: LoadedModel) -> Render:
    def rendered(messages: list[Message], **options: Any) -> str:
        return str(base[1].apply_chat_template(messages, tokenize=False, **options))

    return rendered


def test_turns_are_rendered_as_chatml(render: Render) -> None:
    text = render([{"role": "system", "content": "Be brief."}, USER], add_generation_prompt=True)
    assert text == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_without_tools_every_message_is_a_turn_of_its_role(render: Render) -> None:
    answer, later = {"role": "assistant", "content": "Hello!"}, {"role": "system", "content": "Be loud."}
    assert render([USER, answer, later, USER], add_generation_prompt=True) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>system\nBe loud.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tools_are_listed_in_the_system_part_with_or_without_a_system_prompt(render: Render) -> None:
    assert render([USER], tools=[TOOL]).startswith('<|im_start|>system\nTools:\n<tools>\n{"type": "function"')
    with_prompt = render([{"role": "system", "content": "Be brief."}, USER], tools=[TOOL, TOOL])
    assert with_prompt.startswith('<|im_start|>system\nBe brief.\nTools:\n<tools>\n{"type": "function"')
    assert with_prompt.count("<|im_start|>system") == 1
    assert re.findall("<tools>\n(.*?)\n</tools>", with_prompt, re.DOTALL) == ["\n".join([json.dumps(TOOL)] * 2)]


@pytest.mark.parametrize("content", [None, "", "Let me look.", "Let me look.\n"])
def test_calls_are_written_as_the_hermes_parser_reads_them(render: Render, content: str | None) -> None:
    """The parser hands what stands before the first call back as content, its line end included."""
    text = render([USER, call_of({"city": "Oslo"}, {"city": "Köln"}) | {"content": content}], tools=[TOOL])
    answer = text.rpartition("<|im_start|>assistant\n")[2]
    assert answer == (
        ("Let me look.\n" if content else "")
        + '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        + '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call><|im_end|>\n'
    )


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_vllms_parser_reads_the_calls_whole_and_in_pieces(base: LoadedModel, render: Render, size: int) -> None:
    arguments = [{"city": "Köln", "days": [1, 2], "unit": {"name": "K"}}, {}, {"text": 'a "b"\n</tool> {'}]
    answer = render([USER, call_of(*arguments) | {"content": "Let me look."}]).rpartition("assistant\n")[2]
    answer = answer.removesuffix("<|im_end|>\n")
    request = ChatCompletionRequest(messages=[USER], tools=[TOOL], model="base")

    whole = Hermes2ProToolParser(base[1], request.tools).extract_tool_calls(answer, request)
    assert whole.content == "Let me look.\n"
    assert [(call.function.name, json.loads(call.function.arguments)) for call in whole.tool_calls] == [
        ("weather", each) for each in arguments
    ]

    parser, content, streamed = Hermes2ProToolParser(base[1], request.tools), "", dict[int, str]()
    for end in range(size, len(answer) + size, size):
        before, upto = answer[: end - size], answer[:end]
        delta = parser.extract_tool_calls_streaming(before, upto, upto[len(before) :], [], [], [], request)
        content += (delta and delta.content) or ""
        for part in (delta and delta.tool_calls) or []:
            streamed[part.index] = streamed.get(part.index, "") + (part.function.arguments or "")
    assert content == "Let me look.\n"
    assert [json.loads(streamed[index]) for index in range(len(arguments))] == arguments


def test_arguments_as_text_are_rendered_as_the_object_that_they_say(render: Render) -> None:
    assert render([USER, call_of('{"city": "Köln"}', "")]) == render([USER, call_of({"city": "Köln"}, {})])
    assert render([USER, call_of(None)]) == render([USER, call_of({})])


def test_results_that_follow_each_other_share_a_turn(render: Render) -> None:
    results = [{"role": "tool", "tool_call_id": "1", "content": sky} for sky in ("rain", "snow")]
    text = render([USER, call_of({}, {}), *results, {"role": "assistant", "content": "Bad."}, *results[:1]])
    turns = re.findall("<tool_response>.*?<\\|im_end\\|>", text, re.DOTALL)
    assert turns == [
        "<tool_response>\nrain\n</tool_response>\n<tool_response>\nsnow\n</tool_response><|im_end|>",
        "<tool_response>\nrain\n</tool_response><|im_end|>",
    ]
    assert text.count("<|im_start|>user\n<tool_response>") == 2


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_a_thought_stands_before_its_answer_and_is_kept(render: Render, key: str) -> None:
    thoughtful = {"role": "assistant", "content": "Hello!", key: "A greeting."}
    text = render([USER, thoughtful, USER])
    assert "<|im_start|>assistant\n<think>\nA greeting.\n</think>\n\nHello!<|im_end|>" in text


def test_other_roles_for_instructions_are_left_to_the_server(base: LoadedModel) -> None:
    """vLLM turns them into one system message in front, unless a template names them between quotes."""
    assert not re.search("[\"']developer[\"']", base[1].chat_template)


def test_the_prompt_is_a_prefix_of_the_whole_chat(render: Render) -> None:
    chat = [USER, {"role": "assistant", "content": "Hello!"}]
    assert render(chat).startswith(render(chat[:1], add_generation_prompt=True))


def test_the_mask_made_by_hand_is_the_one_the_template_marks(base: LoadedModel) -> None:
    tokenizer = base[1]
    chat = [
        {"role": "system", "content": "Be brief."},
        USER, {"role": "assistant", "content": "Hello!"},
        USER, call_of({"city": "Oslo"}, {}),
        {"role": "tool", "tool_call_id": "1", "content": "rain"}, {"role": "assistant", "content": "Hello, assistant!"},
    ]  # fmt: skip
    marked = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    tokens, is_answer = encode_chat(tokenizer, chat)
    assert tokens == marked["input_ids"]
    assert [int(answer) for answer in is_answer] == marked["assistant_masks"]
    assert tokens[max(index for index, answer in enumerate(is_answer) if answer)] == tokenizer.eos_token_id
