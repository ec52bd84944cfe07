"""Exports with a model card: a version as PEFT files or merged into its base model, or a model trained whole.

Everything runs on this machine. The server only sends the version's files and needs no token of a hub.
"""

import asyncio
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from adapters.base_model import BaseModel
from adapters.errors import BaseModelUnreadable, WorkerProcessDied
from adapters.model_card import ModelCard
from adapters.processes import line_process
from adapters.processes.limits import LimitExceeded
from adapters.storage.manifest import Manifest
from server.cli import transfer
from server.cli.client import ApiClient, Json, version_path
from server.cli.export_target import ExportTarget
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import spinner
from server.cli.watch import job_path

CARD: Final = "README.md"

_SHOWN_LINES: Final = 5


def export_version(server: ApiClient, path: str, target: ExportTarget, *, merge_into: Path | None) -> str:
    """Write the version at ``path`` to ``target``, merged into the base model in ``merge_into`` if there is one.

    Returns the location of the files.

    Raises:
        CommandFailed, SourceForbidden: the export failed; the target is unchanged.
    """
    target.check()
    version = server.get(path)
    if merge_into is not None:
        _check_base(merge_into, version)
    try:
        with TemporaryDirectory(prefix=".patchbay-export-", dir=target.scratch) as scratch:
            files = Path(scratch, "adapter")
            transfer.pull(server, path, files)
            _check_digest(files, version)
            if merge_into is not None:
                files = _merged(merge_into, files, Path(scratch, "model"))
            card = ModelCard(version, target.place, is_merged=merge_into is not None)
            (files / CARD).write_text(card.text())
            return target.take(files, f"{version['id']}, exported by patchbay")
    except OSError as error:
        raise CommandFailed(ExitCode.REFUSED, f"the export could not be written: {error}") from error


def export_model(server: ApiClient, job_id: str, target: ExportTarget) -> str:
    """Write the whole model that a job of method ``full`` trained to ``target``; return the location of the files.

    Raises:
        CommandFailed, SourceForbidden: the export failed; the target is unchanged.
    """
    target.check()
    job = server.get(job_path(job_id))
    try:
        with TemporaryDirectory(prefix=".patchbay-export-", dir=target.scratch) as scratch:
            files = Path(scratch, "model")
            transfer.pull_model(server, f"{job_path(job_id)}/model", files)
            if (name := job["fine_tuned_model"]) is not None:
                with suppress(CommandFailed):  # its adapter may have been deleted
                    version = server.get(version_path(server.resolve(name)))
                    card = ModelCard(version, target.place, is_merged=True, is_whole=True)
                    (files / CARD).write_text(card.text())
            return target.take(files, f"the model of {job_id}, exported by patchbay")
    except OSError as error:
        raise CommandFailed(ExitCode.REFUSED, f"the export could not be written: {error}") from error


def _check_digest(files: Path, version: Json) -> None:
    if Manifest.of(files).digest != version["digest"]:
        message = f"the files received are not those of {version['id']} (digests differ); try again"
        raise CommandFailed(ExitCode.REFUSED, message)


def _check_base(directory: Path, version: Json) -> None:
    needed = version["report"]["base_fingerprint"]
    try:
        found = BaseModel.from_directory(directory, directory.name).fingerprint
    except BaseModelUnreadable as error:
        raise CommandFailed(ExitCode.USAGE, f"cannot merge into {directory}: {error.message}") from error
    if found != needed:
        raise CommandFailed(
            ExitCode.REFUSED,
            f"{directory} is not the base model of {version['id']} (fingerprint {found[:12]}, needed {needed[:12]}): "
            f"name {version['report']['base_model']} with --base",
        )


def _merged(base: Path, adapter: Path, out: Path) -> Path:
    question = {"base": str(base.absolute()), "adapter": str(adapter), "out": str(out)}
    try:
        with spinner("merging"):
            answer = asyncio.run(line_process.run("adapters.compile.merged_model", question))
    except (WorkerProcessDied, LimitExceeded) as failed:
        last = getattr(failed, "log", "").splitlines()[-_SHOWN_LINES:]
        raise CommandFailed(ExitCode.REFUSED, f"merging failed: {failed}", *last) from None
    if "refused" in answer:
        raise CommandFailed(ExitCode.REFUSED, f"merging failed: {answer['refused']}")
    return out
