"""Runs on the embedded base: one thread, short, and one whole run shared by the folder."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest
import torch

from embedded import BASE, DATA
from trainer.methods import __main__ as methods_main
from trainer.methods import data_sets, supervised
from trainer.rendering.rendering import render
from trainer.rendering.report import RenderingReport
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _rendered_in_this_process() -> Iterator[None]:
    """Render runs in this process: a child's import of vLLM takes longer than most runs here."""
    report = data_sets.report

    def rendered(run: RunDirectory) -> RenderingReport:
        if not run.is_rendered:
            render(run)
        return report(run)

    @contextmanager
    def rendering(run: RunDirectory) -> Iterator[Callable[[Flag], None]]:
        def wait(_: Flag) -> None:
            if run.result() is None:
                rendered(run)

        yield wait

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_sets, "report", rendered)
        patch.setattr(methods_main, "rendering", rendering)
        yield


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to a file of a given name."""

    def write(rows: Sequence[Any], name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture(scope="session")
def reviews() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / "sentiment" / "train.jsonl").read_text().splitlines()]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    """Makes a run directory; fields that the test leaves out get values for a short run."""

    def make(name: str = "run", **fields: Any) -> RunDirectory:
        fields = {"base": BASE, "training_file": DATA / "sentiment" / "train.jsonl", "threads": 1, "rank": 8} | fields
        run = RunDirectory(tmp_path / name)
        run.write_spec(RunSpec(**fields))
        return run

    return make


@pytest.fixture(scope="session")
def sentiment(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> RunDirectory:
    """A finished supervised run of 75 steps, everything "auto" but the number of epochs."""
    run = RunDirectory(tmp_path_factory.mktemp("sentiment"))
    files = DATA / "sentiment"
    run.write_spec(
        RunSpec(
            base=BASE,
            training_file=files / "train.jsonl",
            validation_file=files / "heldout.jsonl",
            n_epochs=3,
            threads=1,
        )
    )
    supervised.train(run, run.spec(), Flag())
    return run
