"""The lines of an input file, whatever is between them, and what is found about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.batches.input_file import MAX_LINES, BatchLine, InputFile

URL = "/v1/chat/completions"
values = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
rows = st.fixed_dictionaries(
    {},
    optional={
        "custom_id": values | st.sampled_from(["a", "b"]),
        "method": values | st.just("POST"),
        "url": values | st.just(URL),
        "body": values | st.fixed_dictionaries({"model": values | st.just("base")}),
    },
)


def anything(_model: str) -> None:
    return None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(rows, max_size=6), st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \t\n"]), st.booleans())
async def test_a_line_without_faults_is_read_as_it_was_written(
    tmp_path: Path, rows: list[dict[str, object]], end: bytes, has_mark: bool
) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" * has_mark + b"".join(json.dumps(row).encode() + end for row in rows))
    lines = await InputFile.open(path)
    assert len(lines) == len(rows)
    faults, _ = await lines.faults(URL, anything)
    numbers = {span[0]: index for index, span in enumerate(lines.spans)}
    wrong = {numbers[fault.line] for fault in faults if fault.line is not None}
    for index, row in enumerate(rows):
        if index not in wrong:
            assert (row["method"], row["url"]) == ("POST", URL)
            assert await lines.line(index) == BatchLine(row["custom_id"], row["body"])  # type: ignore[arg-type]
    right = [row["custom_id"] for index, row in enumerate(rows) if index not in wrong]
    assert len(right) == len(set(right))


@pytest.mark.parametrize(("count", "codes"), [(MAX_LINES, []), (MAX_LINES + 1, ["too_many_tasks"])])
async def test_the_number_of_lines_is_bounded(tmp_path: Path, count: int, codes: list[str]) -> None:
    path = tmp_path / "input.jsonl"
    row = {"method": "POST", "url": URL, "body": {"model": "base"}}
    path.write_bytes(b"".join(json.dumps({**row, "custom_id": str(n)}).encode() + b"\n" for n in range(count)))
    faults, _ = await (await InputFile.open(path)).faults(URL, anything)
    assert [fault.code for fault in faults] == codes


async def test_each_model_is_looked_up_once(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    row = {"method": "POST", "url": URL}
    models = ["a", "b", "a", "b", "a"]
    path.write_bytes(
        b"".join(
            json.dumps({**row, "custom_id": str(n), "body": {"model": model}}).encode() + b"\n"
            for n, model in enumerate(models)
        )
    )
    asked: list[str] = []
    faults, found = await (await InputFile.open(path)).faults(
        URL,
        lambda model: asked.append(model) or (f"no {model}" if model == "b" else None),  # type: ignore[func-returns-value]
    )
    assert sorted(asked) == ["a", "b"]
    assert [(fault.line, fault.message) for fault in faults] == [(2, "no b"), (4, "no b")]
    assert found == {"a", "b"}
