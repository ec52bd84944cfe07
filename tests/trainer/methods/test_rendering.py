"""The renderer makes the ids that the server makes, and a mask of exactly the answers."""

import pytest

from embedded import BASE, DATA
from trainer.data.faults import FaultKind, LineFaults
from trainer.data.rows import Conversation
from trainer.data.training_file import read_file
from trainer.methods import data_sets
from trainer.methods.rendering import IGNORED, Renderer

FORGETFUL = """
{%- for m in messages -%}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and loop.last %}(thinking) {% endif %}{{ m.content }}<|im_end|>
{% endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""


def user(text: str):
    return {"role": "user", "content": text}


def answer(text: str):
    return {"role": "assistant", "content": text}


def trained_text(renderer: Renderer, rendered) -> list[str]:
    return [text for text, trained in renderer.segments(rendered) if trained]


@pytest.mark.parametrize("skill", ["json", "sql", "sentiment"])
def test_the_mask_is_the_one_that_the_templates_own_markers_draw(renderer: Renderer, skill: str) -> None:
    for line in list(read_file(DATA / skill / "train.jsonl"))[:50]:
        assert isinstance(line.row, Conversation)
        (rendered,) = renderer.conversation(line.row, LineFaults(1))
        marked = renderer.tokenizer.apply_chat_template(
            list(line.row.messages), return_dict=True, return_assistant_tokens_mask=True
        )
        assert rendered.ids == marked["input_ids"][: len(rendered.ids)]
        assert rendered.trained == [mask == 1 for mask in marked["assistant_masks"]][: len(rendered.ids)]
        assert renderer.stops(rendered.ids)


def test_only_answers_with_weight_one_are_trained(renderer: Renderer) -> None:
    messages = (user("One?"), answer("First."), user("Two?"), answer("Second."), user("Three?"), answer("Third."))
    row = Conversation(messages, (False, True, False, False, False, True))
    (rendered,) = renderer.conversation(row, LineFaults(1))
    assert trained_text(renderer, rendered) == ["First.<|im_end|>", "Third.<|im_end|>"]
    kept = [label for label in rendered.labels if label != IGNORED]
    assert renderer.tokenizer.decode(kept) == "First.<|im_end|>Third.<|im_end|>"


def test_what_stands_behind_the_last_trained_answer_is_left_out(renderer: Renderer) -> None:
    messages = (user("One?"), answer("First."), user("Two?"), answer("Second."))
    (rendered,) = renderer.conversation(Conversation(messages, (False, True, False, False)), LineFaults(1))
    assert trained_text(renderer, rendered) == ["First.<|im_end|>"]
    assert renderer.stops(rendered.ids)


def test_a_template_that_rewrites_earlier_turns_gives_a_sequence_for_each_answer() -> None:
    renderer = Renderer(BASE)
    renderer.tokenizer.chat_template = FORGETFUL
    messages = (user("One?"), answer("First."), user("Two?"), answer("Second."))
    first, second = renderer.conversation(Conversation(messages, (False, True, False, True)), LineFaults(1))
    assert trained_text(renderer, first) == ["(thinking) First.<|im_end|>"]
    assert trained_text(renderer, second) == ["(thinking) Second.<|im_end|>"]
    assert "(thinking) First" not in renderer.tokenizer.decode(second.ids)


def test_a_row_that_the_template_refuses_is_a_fault() -> None:
    renderer = Renderer(BASE)
    renderer.tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    faults = LineFaults(7)
    assert renderer.conversation(Conversation((user("a"), answer("b")), (False, True)), faults) == []
    assert [(fault.line, fault.kind) for fault in faults.found] == [(7, FaultKind.TEMPLATE_REFUSES)]


def test_an_answer_is_never_cut_to_fit(renderer: Renderer, write) -> None:
    rows = [{"messages": [user("Hi"), answer(text)]} for text in ("short", "long " * 60)]
    (_, short, none), (line, nothing, (fault,)) = data_sets.read(write(rows), renderer, most_tokens=50)
    assert (len(short), none) == (1, [])
    assert (line, nothing, fault.kind) == (2, [], FaultKind.TOO_MANY_TOKENS)


def test_another_template_has_another_digest(renderer: Renderer) -> None:
    other = Renderer(BASE)
    assert other.sha256 == renderer.sha256
    other.tokenizer.chat_template = FORGETFUL
    assert other.sha256 != renderer.sha256
