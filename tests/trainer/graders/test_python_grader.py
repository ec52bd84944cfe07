"""``python`` graders: a bounded number of processes, none of which serves two sources or two projects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from adapters.processes.sandbox import SourceFailed
from tests.trainer.graders.conftest import BOUNDS, FakeModels, Grading
from trainer.errors import InvalidField
from trainer.graders import python_processes
from trainer.graders.grader import GradingError
from trainer.graders.python_processes import PythonBounds, PythonProcesses

COUNTING = "n = 0\ndef grade(sample, item):\n    global n\n    n += 1\n    return n"
OTHER = f"{COUNTING}  # of another source"


def source(body: str) -> dict[str, Any]:
    return {"type": "python", "source": f"def grade(sample, item):\n    {body}"}


async def test_it_is_off_unless_the_operator_allows_it(grade: Grading) -> None:
    with pytest.raises(InvalidField, match="--python-graders") as refused:
        await grade(source("return 1"))
    assert refused.value.param == "grader.type"


@pytest.mark.usefixtures("python")
async def test_grade_gets_openais_sample_and_the_item(grade: Grading) -> None:
    assert (await grade(source("return len(sample['output_text'])"), "four")).reward == 4
    assert (await grade(source("return sample['output_json']['x']"), '{"x": 0.5}')).reward == 0.5
    assert (await grade(source("return sample['output_json'] is None"), "no JSON")).reward == 1
    assert (await grade(source("return sample['choices'][0]['message']['content'] == 'a'"), "a")).reward == 1
    assert (await grade(source("return item['x']['y'] + len(item)"), "", x={"y": 2}, z=1)).reward == 4


@pytest.mark.usefixtures("python")
async def test_openais_example_works_as_it_is(grade: Grading) -> None:
    text = (
        "from rapidfuzz import fuzz, utils\n"
        "def grade(sample, item) -> float:\n"
        "    output_text = sample['output_text']\n"
        "    reference_answer = item['reference_answer']\n"
        "    return fuzz.WRatio(output_text, reference_answer, processor=utils.default_process) / 100.0\n"
    )
    graded = await grade(
        {"type": "python", "source": text, "image_tag": "2025-05-08"}, "Fuzzy", reference_answer="fuzzy"
    )
    assert graded.reward == 1


@pytest.mark.usefixtures("python")
async def test_a_failure_is_a_reward_of_0_with_its_reason(grade: Grading) -> None:
    graded = await grade(source("return item['none']"))
    assert (graded.reward, [*graded.errors]) == (0, [GradingError.PYTHON_RUNTIME])
    assert "return item['none']" in graded.errors[GradingError.PYTHON_RUNTIME]
    assert "KeyError" in graded.errors[GradingError.PYTHON_RUNTIME]
    assert [*(await grade(source("import os; os._exit(1)"))).errors] == [GradingError.PYTHON_SERVER]


async def test_one_process_grades_many_samples_of_one_source_and_project(python: PythonProcesses) -> None:
    assert [await python.call("a", COUNTING, [{}, {}]) for _ in range(3)] == [1, 2, 3]
    assert await python.call("a", OTHER, [{}, {}]) == 1
    assert await python.call("b", COUNTING, [{}, {}]) == 1  # the place of the oldest
    assert await python.call("a", OTHER, [{}, {}]) == 2
    assert await python.call("a", COUNTING, [{}, {}]) == 1


async def test_no_more_processes_run_than_the_operator_allows(python: PythonProcesses) -> None:
    calls = [python.call(f"p{n % 3}", f"{COUNTING}  # {n}", [{}, {}]) for n in range(8)]
    assert await asyncio.gather(*calls) == [1] * 8
    assert len(python._waiting) <= BOUNDS.processes


async def test_a_process_that_failed_is_not_used_again(python: PythonProcesses) -> None:
    fails = COUNTING + " if n < 2 else 1 / 0"
    assert await python.call("a", fails, [{}, {}]) == 1
    with pytest.raises(SourceFailed, match="ZeroDivisionError"):
        await python.call("a", fails, [{}, {}])
    assert await python.call("a", fails, [{}, {}]) == 1


async def test_a_process_that_graded_for_long_makes_way_for_a_new_one(
    python: PythonProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [await python.call("a", COUNTING, [{}, {}]) for _ in range(2)] == [1, 2]
    monkeypatch.setattr(python_processes, "LIFE_S", 0)
    assert [await python.call("a", COUNTING, [{}, {}]) for _ in range(2)] == [3, 1]


@pytest.mark.usefixtures("python")
async def test_a_grader_that_does_not_answer_is_unresponsive(models: FakeModels, grade: Grading) -> None:
    models.python = PythonProcesses(PythonBounds(1, call_s=0.5, memory_bytes=BOUNDS.memory_bytes))
    async with models.python.running():
        graded = await grade(source("while True: pass"))
        assert [*graded.errors] == [GradingError.UNRESPONSIVE]
        assert "--max-grader-s" in graded.errors[GradingError.UNRESPONSIVE]


@pytest.mark.usefixtures("python")
async def test_hostile_graders_of_one_project_do_not_keep_others_out(models: FakeModels) -> None:
    python = PythonProcesses(PythonBounds(2, call_s=2.0, memory_bytes=BOUNDS.memory_bytes))
    async with python.running():
        loops = [
            asyncio.create_task(python.call("hostile", f"def grade(s, i):\n while True: {n}", [{}, {}]))
            for n in range(9)
        ]
        await asyncio.sleep(0)
        assert await python.call("other", "def grade(s, i): return 1", [{}, {}]) == 1
        assert sum(not each.done() for each in loops) >= 5  # it did not wait for all of them
        for each in loops:
            each.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
