"""Whatever stands under the keys that rows have, it is a row or a fault, never an error of ours."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.data.talks import Json
from trainer.data.column_names import standard_columns
from trainer.data.faults import LineFaults
from trainer.data.nulls import without_nulls
from trainer.data.row_reader import read_row
from trainer.row_formats import detect

ROW_KEYS = st.sampled_from(
    [
        "messages",
        "conversations",
        "prompt",
        "completion",
        "instruction",
        "input",
        "output",
        "text",
        "label",
        "system",
        "history",
        "tools",
        "functions",
        "chosen",
        "rejected",
        "preferred_output",
        "non_preferred_output",
        "question",
        "query",
        "response",
        "answer",
        "context",
        "system_prompt",
        "kto_tag",
        "rejected_response",
        "rejected_messages",
        "Prompt",
        "weight",
        "images",
        "id",
    ]
)
MESSAGE_KEYS = st.sampled_from(
    [
        "role",
        "content",
        "from",
        "value",
        "name",
        "weight",
        "tool_calls",
        "function_call",
        "tool_call_id",
        "reasoning",
        "reasoning_content",
        "loss",
        "train",
        "train_detail",
        "refusal",
        "audio",
        "id",
        "type",
        "function",
        "arguments",
        "parameters",
        "properties",
        "default",
        "text",
        "messages",
        "tools",
    ]
)
WORDS = st.sampled_from(
    [
        *(
            "",
            " ",
            "a",
            "user",
            "assistant",
            "system",
            "tool",
            "human",
            "gpt",
            "function_call",
            "function",
            "text",
            "true",
        ),
        *(
            "[]",
            "{}",
            "[{'role': 'user', 'content': 1}]",
            '{"name": "f", "arguments": {}}',
            '[{"role": "user", "content": "a"}]',
            "[1]",
            "null",
            "NaN",
        ),
    ]
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(allow_nan=False), WORDS)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MESSAGE_KEYS, inner, max_size=4), max_leaves=12
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool"]), "content": st.one_of(st.just("a"), ANYTHING)},
        optional={"tool_calls": ANYTHING, "tool_call_id": ANYTHING, "function_call": ANYTHING, "weight": ANYTHING},
    ),
    max_size=4,
)
ROWS = st.dictionaries(ROW_KEYS, st.one_of(ANYTHING, MESSAGES), max_size=5)


@settings(deadline=None, max_examples=400)
@given(value=ROWS)
def test_any_row_is_read_or_has_faults(value: Json) -> None:
    faults = LineFaults(1)
    row = standard_columns(without_nulls(value)[0], faults)
    form = detect(row)
    if form is None or faults:
        return
    read = read_row(row, form, faults)
    assert (read is None) == bool(faults)
    json.dumps([str(fault) for fault in faults.found])
