"""Renders the files of a run: their faults, token counts and previews, and the token ids that it trains on."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapters.storage.disk import is_no_space
from trainer.data.file_report import FileReport, inspect_files
from trainer.endings import RunEnded
from trainer.rendering import token_rows, verdict_rows
from trainer.rendering.report import RenderingReport
from trainer.rendering.row_renderer import RowRenderer
from trainer.rendering.serving_renderer import ServingRenderer
from trainer.rendering.tally import tally
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec


def render(run: RunDirectory) -> RenderingReport:
    """Write the report and, where no fault is found, the token ids of the files in ``run``'s spec.

    Raises:
        OSError: the disk is full.
    """
    report = RenderingReport()
    shutil.rmtree(run.token_rows, ignore_errors=True)
    staged = run.scratch / "token_rows"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        _render(run.spec(), staged, report)
    except (RunEnded, OSError, ValueError) as error:
        if isinstance(error, OSError) and is_no_space(error, run.path):
            raise
        report.reason = str(error)
    except MemoryError:
        report.reason = "the files take too much memory to be rendered: send shorter rows"
    if report.ok:
        staged.rename(run.token_rows)
    run.write_rendering(asdict(report))
    return report


def _render(spec: RunSpec, directory: Path, report: RenderingReport) -> None:
    serving = ServingRenderer(spec.base, spec.renderer)
    report.renderer_sha256 = serving.sha256
    report.most_tokens = serving.context if spec.max_length is None else min(spec.max_length, serving.context)
    renderer = RowRenderer(serving, report.most_tokens, spec.prompt)

    def rendered(path: Path, name: str, inspected: FileReport) -> dict[str, Any]:
        with token_rows.writer(directory / name) as rows:
            counted = tally(path, spec.method, renderer, inspected, rows.write, drop_long=spec.drop_long)
        return inspected.to_json() | {"tokens": counted.to_json()}

    training, validation = inspect_files(spec.training_file, spec.validation_file, spec.method)
    report.training = rendered(spec.training_file, token_rows.TRAINING, training)
    if spec.validation_file is not None and validation is not None:
        report.validation = rendered(spec.validation_file, token_rows.VALIDATION, validation)
        if report.ok and spec.verdict_rows and not spec.method.traits.is_taught:  # its rows have no answers
            verdict_rows.choose(spec, renderer).write(directory)
