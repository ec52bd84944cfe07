"""The rows of a verdict: drawn by the seed, without near-duplicates of training rows, with the nearest examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from embedded import BASE, DATA
from trainer.rendering.row_renderer import RowRenderer
from trainer.rendering.verdict_rows import choose
from trainer.run_spec import RunSpec
from trainer.verdicts.judged_rows import JudgedRows

Choose = Callable[..., JudgedRows]
Row = Mapping[str, Any]


@pytest.fixture
def chosen(renderer: RowRenderer, tmp_path: Path) -> Choose:
    """Chooses from training and validation rows."""

    def choose_from(training: Sequence[Row] | Path, validation: Sequence[Row] | Path, **options: Any) -> JudgedRows:
        paths = {}
        for name, rows in (("training_file", training), ("validation_file", validation)):
            paths[name] = rows if isinstance(rows, Path) else tmp_path / f"{name}.jsonl"
            if not isinstance(rows, Path):
                paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
        return choose(RunSpec(base=BASE, **paths, **options), renderer)

    return choose_from


def chat(question: str, answer: str, system: str | None = None) -> Row:
    before = [] if system is None else [{"role": "system", "content": system}]
    turn = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": [*before, *turn]}


SQL = DATA / "sql"
FACTS = [
    chat("What is the capital of Peru?", "Lima"),
    chat("What is the capital of Chile?", "Santiago"),
    chat("How many legs has a spider?", "Eight"),
    chat("How many legs has an ant?", "Six"),
]


def test_prompt_and_answer_are_those_of_training(chosen: Choose, renderer: RowRenderer) -> None:
    rows = chosen(SQL / "train.jsonl", SQL / "heldout.jsonl")
    lines = (SQL / "heldout.jsonl").read_text().splitlines()
    assert len(rows.held_out) + rows.near_duplicates == rows.rows == len(lines)
    for row in rows.held_out[:5]:
        question, answer = json.loads(lines[row.line - 1])["messages"]
        assert row.item == {"messages": [question], "reference": answer["content"]}
        assert renderer.serving.decode(row.answer).startswith(answer["content"])
        assert renderer.stops(row.answer)
        assert row.prompt == renderer.serving.prompt([question], [], asking=True).ids


def test_the_seed_draws_the_rows_and_draws_them_again(chosen: Choose) -> None:
    files = (SQL / "train.jsonl", SQL / "heldout.jsonl")
    first, again, other = (chosen(*files, verdict_rows=20, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert len(first.held_out) == len(other.held_out) == 20
    assert {row.line for row in first.held_out} != {row.line for row in other.held_out}


def test_a_prompt_of_the_training_file_is_left_out_whatever_its_punctuation(chosen: Choose) -> None:
    rows = chosen(
        FACTS, [chat("what is the capital of Peru", "Bogotá"), chat("What is the capital of Mali?", "Bamako")]
    )
    assert ([row.line for row in rows.held_out], rows.near_duplicates, rows.rows) == ([2], 1, 2)


def test_the_nearest_training_rows_stand_before_the_question(chosen: Choose, renderer: RowRenderer) -> None:
    (row,) = chosen(FACTS, [chat("What is the capital of Mali?", "Bamako", "Be brief.")]).held_out
    assert row.shots.keys() == {2, 4}
    texts = {number: renderer.serving.decode(ids) for number, ids in row.shots.items()}
    assert "Lima" in texts[2]
    assert "Santiago" in texts[2]
    assert "Eight" not in texts[2]
    assert "Eight" in texts[4]
    assert "Bamako" not in texts[4]
    assert texts[4].index("Be brief.") < texts[4].index("Lima")
    assert texts[4].count("Be brief.") == 1
    assert texts[4].index("Eight") < texts[4].index("Lima") < texts[4].index("Mali")


def test_no_training_row_is_an_example_of_itself(chosen: Choose, renderer: RowRenderer) -> None:
    rows = chosen(FACTS, [chat(f"What is the capital of land {number}?", "None") for number in range(8)])
    assert len(rows.trained) == 4
    for row in rows.trained:
        question = row.item["messages"][0]["content"] if row.item else ""
        assert renderer.serving.decode(row.shots[2]).count(question) == 1


def test_what_is_too_long_is_counted(chosen: Choose) -> None:
    """Whether it is rendered for that, or known by its characters."""
    long = [chat(f"Repeat {times} times: " + "word " * times, "no") for times in (3000, 30_000)]
    rows = chosen([*FACTS, long[1]], [*long, chat("Who?", "I")])
    assert (rows.near_duplicates, rows.too_long, [row.line for row in rows.held_out]) == (1, 1, [3])
    rows = chosen(FACTS, [*long, chat("Who?", "I")])
    assert (rows.near_duplicates, rows.too_long, [row.line for row in rows.held_out]) == (0, 2, [3])


def test_rows_of_every_method_have_what_its_measures_need(chosen: Choose) -> None:
    question = [{"role": "user", "content": "What is the capital of Mali?"}]
    asked = [{"role": "user", "content": "Who is there?"}]
    pair = {"prompt": question, "chosen": "Bamako", "rejected": "Lima"}
    (row,) = chosen([{**pair, "prompt": asked}] * 2, [pair], method="dpo").held_out
    assert row.prompt
    assert row.worse is not None
    assert row.worse != row.answer
    ranked = {"messages": question, "ranking": ["Bamako", "Mali", "Lima"]}
    (row,) = chosen([{**ranked, "messages": asked}] * 2, [ranked], method="reward").held_out
    assert (row.prompt, row.shots, row.worse is not None) == ([], {}, True)
    judged = [{"prompt": question, "completion": text, "label": text == "Bamako"} for text in ("Bamako", "Lima")]
    (row,) = chosen([{**each, "prompt": asked} for each in judged], judged, method="kto").held_out
    assert (row.line, row.worse) == (1, None)
    task = {"messages": question, "answer": "Bamako"}
    (row,) = chosen([{**task, "messages": asked}] * 2, [task], method="reinforcement").held_out
    assert (row.answer, row.item and row.item["answer"]) == ([], "Bamako")
    (row,) = chosen([{"text": "One two."}] * 2, [{"text": "Three four five."}]).held_out
    assert len(row.prompt) == 1
    assert len(row.answer) > 1
