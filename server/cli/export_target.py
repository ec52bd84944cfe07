"""Places that a version can be exported to: a directory of this machine, or a repository on a hub."""

import io
import logging
import re
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer
from huggingface_hub import CommitOperationAdd, HfApi

from adapters.storage.disk import FileEntry
from server.cli.failure import CommandFailed, ExitCode
from server.cli.hub import ANSWER_TIMEOUT_S, hub_api, hub_errors
from server.cli.output import transfer_progress
from server.cli.settings import settings_of

HUB_SCHEME: Final = "hf://"
_REPOSITORY: Final = re.compile(
    r"(?P<repo>[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95})(?:@(?P<branch>[\w-][\w./-]{0,199}))?", re.ASCII
)


class ExportTarget(ABC):
    """A place that a version can be exported to."""

    place: str
    """Path or repository for the model card's examples; "." for the directory that contains the card."""
    scratch: Path | None = None
    """A directory on the target's file system for preparing the files; None: any will do."""

    def check(self) -> None:  # noqa: B027 - a repository may not exist yet: nothing to check
        """Refuse, before any work, a target that cannot be written.

        Raises:
            CommandFailed: it cannot be written.
        """

    @abstractmethod
    def take(self, directory: Path, title: str) -> str:
        """Write the files in ``directory`` to the target; return their location.

        Raises:
            CommandFailed, SourceForbidden: nothing was written that could be taken for a complete export.
        """


class DirectoryTarget(ExportTarget):
    """A directory of this machine that is new or empty."""

    place = "."

    def __init__(self, path: Path) -> None:
        self._path = path
        self.scratch = next(parent for parent in path.absolute().parents if parent.is_dir())

    def check(self) -> None:
        """Refuse a file and a directory with content."""
        if self._path.exists() and not self._path.is_dir():
            raise CommandFailed(ExitCode.USAGE, f"{self._path} is a file; name a new directory")
        if self._path.is_dir() and any(self._path.iterdir()):
            raise CommandFailed(ExitCode.USAGE, f"{self._path} is not empty; name a new directory")

    def take(self, directory: Path, title: str) -> str:
        """Move the files, which are on the same file system, into the directory; ``title`` has no effect."""
        self._path.mkdir(parents=True, exist_ok=True)
        for file in directory.iterdir():
            file.rename(self._path / file.name)
        return str(self._path)


@dataclass(slots=True)
class HubTarget(ExportTarget):
    """A repository on a hub, created if it does not exist: private unless ``public``. All files go in one commit."""

    place: str
    """``org/repo``."""
    branch: str | None
    public: bool
    endpoint: str | None
    token: str | None
    """None: the token that ``hf auth login`` stored."""
    answer_timeout_s: float = ANSWER_TIMEOUT_S

    def take(self, directory: Path, title: str) -> str:
        """Commit the files in ``directory`` with the message ``title``; return ``hf://org/repo@<sha>``.

        Raises:
            CommandFailed, SourceForbidden: no commit was made, or its files differ from those sent.
        """
        with hub_errors(self.place):
            api = hub_api(self.endpoint, self.token, answer_timeout_s=self.answer_timeout_s)
            api.create_repo(self.place, private=not self.public, exist_ok=True)
            if not self.public and not api.model_info(self.place).private:
                message = f"{self.place} is a public repository: pass --public, or name another repository"
                raise CommandFailed(ExitCode.REFUSED, message)
            if self.branch is not None:
                api.create_branch(self.place, branch=self.branch, exist_ok=True)
            sha = self._commit(api, directory, title)
            self._compare(api, directory, sha)
        return f"{HUB_SCHEME}{self.place}@{sha}"

    def _commit(self, api: HfApi, directory: Path, title: str) -> str:
        # The library uploads open files over HTTP with the client of hub.py, and warns about it. Paths it would upload
        # with Xet, which has its own client and works with one hub only.
        logging.getLogger("huggingface_hub._commit_api").setLevel(logging.ERROR)
        with ExitStack() as opened:
            progress = opened.enter_context(transfer_progress())
            files = [
                CommitOperationAdd(
                    path_in_repo=path.name,
                    path_or_fileobj=io.BufferedReader(
                        opened.enter_context(progress.open(path, "rb", description=path.name))  # type: ignore[type-var]
                    ),
                )
                for path in _files(directory)
            ]
            return api.create_commit(self.place, files, commit_message=title, revision=self.branch).oid

    def _compare(self, api: HfApi, directory: Path, sha: str) -> None:
        info = api.model_info(self.place, revision=sha, files_metadata=True)
        listed = {file.rfilename: file for file in info.siblings or ()}
        for path in _files(directory):
            entry, found = FileEntry.of(path), listed.get(path.name)
            sha256 = found.lfs.sha256 if found is not None and found.lfs is not None else entry.sha256
            if found is None or found.size != entry.size or sha256 != entry.sha256:
                message = (
                    f"the hub lists other bytes of {self.place}/{path.name} than were sent: do not use commit {sha}"
                )
                raise CommandFailed(ExitCode.REFUSED, message)


def export_target(ctx: typer.Context, text: str, *, public: bool) -> ExportTarget:
    """Return the target that ``text`` names: ``hf://org/repo[@branch]``, else a directory.

    Raises:
        CommandFailed: it names no target, or a setting is wrong.
    """
    if text.startswith(HUB_SCHEME):
        match = _REPOSITORY.fullmatch(text.removeprefix(HUB_SCHEME))
        if match is None:
            message = f"'{text}' is not a repository; write hf://org/repo or hf://org/repo@branch"
            raise CommandFailed(ExitCode.USAGE, message)
        settings = settings_of(ctx)
        return HubTarget(match["repo"], match["branch"], public, settings.hub_endpoint, settings.hub_token)
    if "://" in text:
        raise CommandFailed(ExitCode.USAGE, f"cannot export to '{text}': name a directory, or hf://org/repo[@branch]")
    return DirectoryTarget(Path(text))


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_file())
