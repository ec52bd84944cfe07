"""The chat template renders system prompts, tools, turns and the mask of answers; serving and training use it too."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from embedded.recipe.tokenizer import encode_chat

LoadedModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]
Message = dict[str, Any]
Render = Callable[..., str]
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
}


@pytest.fixture
def render(base: LoadedModel) -> Render:
    def rendered(messages: list[Message], **options: Any) -> str:
        return str(base[1].apply_chat_template(messages, tokenize=False, **options))

    return rendered


def test_turns_are_rendered_as_chatml(render: Render) -> None:
    text = render([{"role": "system", "content": "Be brief."}, USER], add_generation_prompt=True)
    assert text == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_tools_are_listed_in_the_system_part_with_or_without_a_system_prompt(render: Render) -> None:
    assert render([USER], tools=[TOOL]).startswith('<|im_start|>system\nTools:\n{"type": "function"')
    with_prompt = render([{"role": "system", "content": "Be brief."}, USER], tools=[TOOL])
    assert with_prompt.startswith('<|im_start|>system\nBe brief.\nTools:\n{"type": "function"')
    assert with_prompt.count("<|im_start|>system") == 1


def test_a_conversation_with_a_tool_call_and_its_result_is_rendered(render: Render) -> None:
    text = render([USER, CALL, {"role": "tool", "tool_call_id": "1", "content": "rain"}], tools=[TOOL])
    assert '<|im_start|>assistant\n{"name": "weather", "arguments": {"city": "Oslo"}}<|im_end|>' in text
    assert text.endswith("<|im_start|>tool\nrain<|im_end|>\n")


def test_the_prompt_is_a_prefix_of_the_whole_chat(render: Render) -> None:
    chat = [USER, {"role": "assistant", "content": "Hello!"}]
    assert render(chat).startswith(render(chat[:1], add_generation_prompt=True))


def test_the_mask_made_by_hand_is_the_one_the_template_marks(base: LoadedModel) -> None:
    tokenizer = base[1]
    chat = [
        {"role": "system", "content": "Be brief."},
        USER, {"role": "assistant", "content": "Hello!"},
        USER, {"role": "assistant", "content": "Hello again, assistant!"},
    ]  # fmt: skip
    marked = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    tokens, is_answer = encode_chat(tokenizer, chat)
    assert tokens == marked["input_ids"]
    assert [int(answer) for answer in is_answer] == marked["assistant_masks"]
    assert tokens[max(index for index, answer in enumerate(is_answer) if answer)] == tokenizer.eos_token_id
