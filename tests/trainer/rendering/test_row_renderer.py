"""Rows become the prompts that the server builds, and a mask of exactly the answers."""

import json

import pytest

from embedded import BASE, DATA
from tests.trainer.rendering.conftest import MakeRenderer, WriteRows
from trainer.data.faults import FaultKind, LineFaults, WarningKind
from trainer.data.rows import Conversation, Message, PlainText
from trainer.data.training_file import read_file
from trainer.endings import BaseRefused
from trainer.renderer_options import RendererOptions
from trainer.rendering import columns
from trainer.rendering.row_renderer import IGNORED, Rendered, RowRenderer
from trainer.rendering.serving_renderer import ServingRenderer
from trainer.training_method import TrainingMethod

FORGETFUL = """
{%- for m in messages -%}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and loop.last %}(thinking) {% endif %}{{ m.content }}<|im_end|>
{% endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
THINKING = """
{%- for m in messages -%}<|im_start|>{{ m.role }}
{{ m.content.split('</think>')[-1] }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% else %}<think>
{% endif %}{%- endif -%}
"""
TOOLS = """
{%- for tool in tools or [] -%}{{ tool | tojson }}
{% endfor -%}
{%- for m in messages -%}<|im_start|>{{ m.role }}
{{ m.content or '' }}{% for call in m.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}<|im_end|>
{% endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def trained_text(renderer: RowRenderer, rendered: Rendered) -> list[str]:
    return [text for text, trained in renderer.segments(rendered) if trained]


def text_of(renderer: RowRenderer, rendered: Rendered) -> str:
    return renderer.serving.decode(rendered.ids)


@pytest.mark.parametrize("skill", ["json", "sql", "sentiment"])
def test_the_mask_is_the_one_that_the_templates_own_markers_draw(renderer: RowRenderer, skill: str) -> None:
    for line in list(read_file(DATA / skill / "train.jsonl"))[:50]:
        assert isinstance(line.row, Conversation)
        (rendered,) = renderer.conversation(line.row, LineFaults(1))
        marked = renderer.serving.tokenizer.apply_chat_template(
            list(line.row.messages), return_dict=True, return_assistant_tokens_mask=True
        )
        assert rendered.ids == marked["input_ids"][: len(rendered.ids)]
        assert rendered.trained == [mask == 1 for mask in marked["assistant_masks"]][: len(rendered.ids)]
        assert renderer.stops(rendered.ids)


def test_only_answers_with_weight_one_are_trained(renderer: RowRenderer) -> None:
    messages = (user("One?"), answer("First."), user("Two?"), answer("Second."), user("Three?"), answer("Third."))
    row = Conversation(messages, (False, True, False, False, False, True))
    (rendered,) = renderer.conversation(row, LineFaults(1))
    assert trained_text(renderer, rendered) == ["First.<|im_end|>", "Third.<|im_end|>"]
    kept = [label for label in rendered.labels if label != IGNORED]
    assert renderer.serving.decode(kept) == "First.<|im_end|>Third.<|im_end|>"


def test_what_stands_behind_the_last_trained_answer_is_left_out(renderer: RowRenderer) -> None:
    messages = (user("One?"), answer("First."), user("Two?"), answer("Second."))
    (rendered,) = renderer.conversation(Conversation(messages, (False, True, False, False)), LineFaults(1))
    assert trained_text(renderer, rendered) == ["First.<|im_end|>"]
    assert renderer.stops(rendered.ids)


def test_a_template_that_rewrites_earlier_turns_gives_a_sequence_for_each_answer(renderer_with: MakeRenderer) -> None:
    renderer = renderer_with(chat_template=FORGETFUL)
    messages = (user("One?"), answer("First."), user("Two?"), answer("Second."))
    first, second = renderer.conversation(Conversation(messages, (False, True, False, True)), LineFaults(1))
    assert trained_text(renderer, first) == ["(thinking) First.<|im_end|>"]
    assert trained_text(renderer, second) == ["(thinking) Second.<|im_end|>"]
    assert "(thinking) First" not in text_of(renderer, second)


def test_a_plain_answer_closes_the_thought_that_the_generation_prompt_opens(renderer_with: MakeRenderer) -> None:
    renderer = renderer_with(chat_template=THINKING)
    faults = LineFaults(1)
    (rendered,) = renderer.conversation(Conversation((user("Hi"), answer("Hello.")), (False, True)), faults)
    assert [warning.kind for warning in faults.warnings] == [WarningKind.CLOSED_THOUGHT]
    assert text_of(renderer, rendered).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nHello.<|im_end|>")
    assert trained_text(renderer, rendered) == ["\n</think>\n\nHello.<|im_end|>"]


def test_reasoning_that_the_template_leaves_out_fills_the_thought(renderer_with: MakeRenderer) -> None:
    renderer = renderer_with(chat_template=THINKING)
    reasoned = {**answer("4."), "reasoning_content": "2 and 2."}
    (rendered,) = renderer.conversation(Conversation((user("2+2?"), reasoned), (False, True)), LineFaults(1))
    assert trained_text(renderer, rendered) == ["2 and 2.\n</think>\n\n4.<|im_end|>"]


def test_an_answer_follows_the_empty_thought_of_a_server_that_does_not_think(renderer_with: MakeRenderer) -> None:
    renderer = renderer_with(chat_template=THINKING, default_chat_template_kwargs={"enable_thinking": False})
    (rendered,) = renderer.conversation(Conversation((user("Hi"), answer("Hello.")), (False, True)), LineFaults(1))
    assert text_of(renderer, rendered).endswith("<think>\n\n</think>\n\nHello.<|im_end|>")
    assert trained_text(renderer, rendered) == ["Hello.<|im_end|>"]


def test_a_developers_message_becomes_the_system_message_as_in_a_request(renderer_with: MakeRenderer) -> None:
    renderer = renderer_with(chat_template=FORGETFUL)
    rules: Message = {"role": "developer", "content": "Be short."}
    messages = (rules, user("Hi"), answer("Hello."))
    (rendered,) = renderer.conversation(Conversation(messages, (False, False, True)), LineFaults(1))
    assert text_of(renderer, rendered).startswith("<|im_start|>system\nBe short.<|im_end|>")


def test_tools_are_written_as_the_server_writes_them(renderer_with: MakeRenderer) -> None:
    renderer = renderer_with(chat_template=TOOLS)
    tool = {"function": {"parameters": {"type": "object"}, "name": "now", "source": "mine"}, "type": "function"}
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": '{"zone":  "UTC"}'}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    (rendered,) = renderer.conversation(
        Conversation((user("Now?"), calling), (False, True), tools=(tool,)), LineFaults(1)
    )
    written = text_of(renderer, rendered)
    first_line, _, _ = written.partition("\n")
    keys = list(json.loads(first_line)["function"])
    assert (keys[0], "source" in keys) == ("name", False), "vLLM's order and keys, not the file's"
    assert trained_text(renderer, rendered) == ['{"zone": "UTC"}<|im_end|>']


def test_a_row_that_the_template_refuses_is_a_fault(renderer_with: MakeRenderer) -> None:
    renderer = renderer_with(chat_template="{{ raise_exception('no such role') }}")
    faults = LineFaults(7)
    assert renderer.conversation(Conversation((user("a"), answer("b")), (False, True)), faults) == []
    assert [(fault.line, fault.kind) for fault in faults.found] == [(7, FaultKind.TEMPLATE_REFUSES)]
    assert "no such role" in faults.found[0].found


def test_plain_text_is_trained_without_the_template(renderer: RowRenderer) -> None:
    row = renderer.text(PlainText("Once upon", " a time."))
    assert renderer.serving.decode(row.prompt + row.answer) == "Once upon a time.<|im_end|>"


def test_an_answer_is_never_cut_to_fit(renderer: RowRenderer, write: WriteRows) -> None:
    rows = [{"messages": [user("Hi"), answer(text)]} for text in ("short", "long " * 60)]
    (short, none), (nothing, faults) = columns.read(
        write(rows), TrainingMethod.SUPERVISED, RowRenderer(renderer.serving, most_tokens=50)
    )
    assert (len(short), none.found) == (1, [])
    assert (faults.line, nothing, [fault.kind for fault in faults.found]) == (2, [], [FaultKind.TOO_MANY_TOKENS])


@pytest.mark.parametrize(("template", "most_calls"), [(None, 2), (FORGETFUL, 4)])
def test_a_conversation_without_end_is_not_rendered_answer_by_answer(
    renderer_with: MakeRenderer,
    write: WriteRows,
    monkeypatch: pytest.MonkeyPatch,
    template: str | None,
    most_calls: int,
) -> None:
    renderer = renderer_with(chat_template=template)
    calls, prompt = [], ServingRenderer.prompt
    monkeypatch.setattr(ServingRenderer, "prompt", lambda *args, **kwargs: calls.append(1) or prompt(*args, **kwargs))
    turns = [turn for _ in range(1000) for turn in (user("Again?"), answer("Yes."))]
    ((made, faults),) = columns.read(write([{"messages": turns}]), TrainingMethod.SUPERVISED, renderer)
    assert (made, [fault.kind for fault in faults.found]) == ([], [FaultKind.TOO_MANY_TOKENS])
    assert len(calls) <= most_calls


@pytest.mark.parametrize(
    "options",
    [
        {"chat_template": FORGETFUL},
        {"default_chat_template_kwargs": {"a": 1}},
        {"chat_template_content_format": "openai"},
    ],
)
def test_other_options_that_change_prompts_have_another_digest(
    renderer: RowRenderer, options: dict[str, object], renderer_with: MakeRenderer
) -> None:
    assert renderer_with().serving.sha256 == renderer.serving.sha256
    assert renderer_with(**options).serving.sha256 != renderer.serving.sha256


def test_a_base_without_a_chat_template_is_refused_with_the_flag_that_gives_one(tmp_path) -> None:
    for path in BASE.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(BaseRefused, match="--chat-template"):
        ServingRenderer(tmp_path, RendererOptions())


@pytest.mark.parametrize(
    ("served", "stated", "kinds"),
    [
        ({}, {"enable_thinking": True}, []),
        ({}, '{"enable_thinking": true}', []),
        ({}, {"enable_thinking": False}, [FaultKind.TEMPLATE_ARGUMENTS]),
        ({"enable_thinking": False}, {"enable_thinking": False}, []),
        ({"enable_thinking": False}, {"enable_thinking": True}, [FaultKind.TEMPLATE_ARGUMENTS]),
        ({}, {"unknown_to_the_template": 1}, []),
    ],
)
def test_a_row_may_state_the_templates_arguments_if_the_server_renders_alike(
    renderer_with: MakeRenderer, write: WriteRows, served: object, stated: object, kinds: list[FaultKind]
) -> None:
    renderer = renderer_with(chat_template=THINKING, default_chat_template_kwargs=served)
    chats = {"messages": [user("One?"), answer("First.")]}
    pair = {"prompt": "One?", "chosen": "First.", "rejected": "Second."}
    for row in (chats, pair):
        path = write([{**row, "chat_template_kwargs": stated}])
        ((made, faults),) = columns.read(path, TrainingMethod.SUPERVISED, renderer)
        assert [fault.kind for fault in faults.found] == kinds
        assert bool(made) == (not kinds)
