"""A version on its way out of patchbay: as PEFT files or merged into its base, with a model card, to where others look.

All of it happens on this machine: the server is only asked for the version's files, and needs no token of a hub.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Protocol

from adapters.base_model import BaseModel
from adapters.errors import BaseModelUnreadable, WorkerProcessDied
from adapters.model_card import ModelCard
from adapters.processes import line_process
from adapters.processes.limits import LimitExceeded
from adapters.storage.manifest import Manifest
from server.cli import transfer
from server.cli.client import ApiClient, Json
from server.cli.failure import CommandFailed, ExitCode
from server.cli.hub_target import HUB_SCHEME, HubTarget
from server.cli.output import spinner
from server.cli.settings import settings_from

CARD: Final = "README.md"

_SHOWN_LINES: Final = 5


class ExportTarget(Protocol):
    """Somewhere a version can be exported to."""

    @property
    def place(self) -> str:
        """What loaders are given to find it; "." for the directory that the card lies in."""
        ...

    @property
    def scratch(self) -> Path | None:
        """A directory on the target's own file system, to prepare the files in; None: it has none."""
        ...

    def check(self) -> None:
        """Refuse, before any work, what could not be written in the end.

        Raises:
            CommandFailed: and why.
        """
        ...

    def take(self, directory: Path, title: str) -> str:
        """Put the files in ``directory`` there; return where they are.

        Raises:
            CommandFailed, SourceForbidden: and why; nothing is there then that somebody could take for whole.
        """
        ...


class DirectoryTarget:
    """A directory of this machine that holds nothing yet."""

    place = "."

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def scratch(self) -> Path:
        """The nearest directory above that exists."""
        return next(parent for parent in self._path.absolute().parents if parent.is_dir())

    def check(self) -> None:
        """Refuse what is there already."""
        if self._path.exists() and not self._path.is_dir():
            raise CommandFailed(ExitCode.USAGE, f"{self._path} is no directory")
        if self._path.is_dir() and any(self._path.iterdir()):
            raise CommandFailed(ExitCode.USAGE, f"{self._path} is not empty; name a new directory")

    def take(self, directory: Path, title: str) -> str:
        """Move the files there, which all lie on its file system already. A directory has no titles."""
        self._path.mkdir(parents=True, exist_ok=True)
        for file in directory.iterdir():
            file.rename(self._path / file.name)
        return str(self._path)


def target_of(text: str, *, public: bool, hub_endpoint: str | None) -> ExportTarget:
    """Return the target that ``text`` means: ``hf://org/repo[@branch]``, else a directory.

    Raises:
        CommandFailed: it is none, or a setting is wrong.
    """
    if text.startswith(HUB_SCHEME):
        settings = settings_from(hub_endpoint=hub_endpoint)
        return HubTarget(text, public=public, endpoint=settings.hub_endpoint, token=settings.hub_token)
    if "://" in text:
        raise CommandFailed(ExitCode.USAGE, f"cannot export to '{text}': name a directory, or hf://org/repo[@branch]")
    return DirectoryTarget(Path(text))


def export_version(server: ApiClient, path: str, target: ExportTarget, *, merge_into: Path | None) -> str:
    """Write the version at ``path`` to ``target``, merged into the base model in ``merge_into`` (None: by itself).

    Returns where it is now.

    Raises:
        CommandFailed, SourceForbidden: and why; the target is as it was.
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
    except OSError as why:
        raise CommandFailed(ExitCode.REFUSED, f"the export could not be written: {why}") from why


def _check_digest(files: Path, version: Json) -> None:
    if Manifest.of(files).digest != version["digest"]:
        raise CommandFailed(ExitCode.REFUSED, f"other bytes arrived than {version['id']} has; try again")


def _check_base(directory: Path, version: Json) -> None:
    meant = version["report"]["base_fingerprint"]
    try:
        found = BaseModel.from_directory(directory, directory.name).fingerprint
    except BaseModelUnreadable as why:
        raise CommandFailed(ExitCode.USAGE, f"cannot merge into {directory}: {why.message}") from why
    if found != meant:
        raise CommandFailed(
            ExitCode.REFUSED,
            f"{directory} is not the base model of {version['id']} (fingerprint {found[:12]}, needed {meant[:12]}): "
            f"name {version['report']['base_model']} with --base",
        )


def _merged(base: Path, adapter: Path, out: Path) -> Path:
    question = {"base": str(base.absolute()), "adapter": str(adapter), "out": str(out)}
    try:
        with spinner("merging"):
            answer = asyncio.run(line_process.run("adapters.compile.merged", question))
    except (WorkerProcessDied, LimitExceeded) as failed:
        last = getattr(failed, "log", "").splitlines()[-_SHOWN_LINES:]
        raise CommandFailed(ExitCode.REFUSED, f"merging failed: {failed}", *last) from None
    if "refused" in answer:
        raise CommandFailed(ExitCode.REFUSED, f"merging failed: {answer['refused']}")
    return out
