"""What worker and child leave each other is read whole, once, and in order."""

import json
import os

import pytest

from trainer.errors import CheckpointNotFound
from trainer.run_directory import COMPLETE, RunDirectory, RunEvent


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path)


def messages_after(run: RunDirectory, position: int) -> tuple[list[str], int]:
    events, behind = run.events_since(position)
    return [each.message for each in events], behind


def test_a_reader_that_keeps_its_position_gets_every_event_once(run: RunDirectory) -> None:
    messages, position = messages_after(run, 0)
    assert (messages, position) == ([], 0)
    for round_ in range(3):
        for number in range(round_ + 1):
            run.append(RunEvent(message=f"{round_}.{number} é\u2028"))
        messages, position = messages_after(run, position)
        assert messages == [f"{round_}.{number} é\u2028" for number in range(round_ + 1)]
    assert messages_after(run, position) == ([], position)
    assert position == run.events_file.stat().st_size


def test_half_a_line_is_left_to_be_read_later_or_cut_off(run: RunDirectory) -> None:
    run.append(RunEvent(message="one"))
    line = json.dumps({"type": "message", "level": "info", "message": "two", "data": {}, "created_at": 1.0}) + "\n"
    with run.events_file.open("a") as file:
        file.write(line[:20])
    messages, position = messages_after(run, 0)
    assert messages == ["one"]
    assert messages_after(run, position) == ([], position)
    with run.events_file.open("a") as file:
        file.write(line[20:] + line[:20])
    messages, position = messages_after(run, position)
    assert messages == ["two"]
    run.mend_events()
    assert run.events_file.stat().st_size == position
    run.append(RunEvent(message="three"))
    assert messages_after(run, position)[0] == ["three"]


def test_a_checkpoint_is_found_by_its_step_once_it_is_complete(run: RunDirectory) -> None:
    with pytest.raises(CheckpointNotFound, match="these have: none yet"):
        run.checkpoint(5)
    run.checkpoint_path(5).mkdir(parents=True)
    with pytest.raises(CheckpointNotFound):
        run.checkpoint(5)
    marker = {"step": 5, "metrics": {}, "trained_tokens": 1, "seconds": 0.5, "last": False}
    (run.checkpoint_path(5) / COMPLETE).write_text(json.dumps(marker))
    assert run.checkpoint(5) == run.checkpoints()[0]
    with pytest.raises(CheckpointNotFound, match=r"step 6 .* these have: 5"):
        run.checkpoint(6)


def test_a_number_that_json_does_not_have_is_never_written(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write("result.json", {"loss": float("nan")})
    assert os.listdir(run.path) == []
