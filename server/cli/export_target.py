"""Places that a version can be exported to: a directory of this machine, or a repository on a hub."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

import httpx2
import typer
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from adapters.errors import PatchbayError
from adapters.storage.manifest import FileEntry
from server.cli.failure import CommandFailed, ExitCode
from server.cli.hub import ANSWER_TIMEOUT_S, hub_api, one_line, unreachable
from server.cli.output import transfer_progress
from server.cli.settings import settings_of

HUB_SCHEME: Final = "hf://"
_REPOSITORY: Final = re.compile(
    r"(?P<repo>[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95})(?:@(?P<branch>[\w-][\w./-]{0,199}))?", re.ASCII
)


class ExportTarget(Protocol):
    """A place that a version can be exported to."""

    @property
    def place(self) -> str:
        """Path or repository for the model card's examples; "." for the directory that contains the card."""
        ...

    @property
    def scratch(self) -> Path | None:
        """A directory on the target's file system for preparing the files; None: any will do."""
        ...

    def check(self) -> None:
        """Refuse, before any work, a target that cannot be written.

        Raises:
            CommandFailed: it cannot be written.
        """
        ...

    def take(self, directory: Path, title: str) -> str:
        """Write the files in ``directory`` to the target; return their location.

        Raises:
            CommandFailed, SourceForbidden: nothing was written that could be taken for a complete export.
        """
        ...


class DirectoryTarget:
    """A directory of this machine that is new or empty."""

    place = "."

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def scratch(self) -> Path:
        """The nearest parent directory that exists."""
        return next(parent for parent in self._path.absolute().parents if parent.is_dir())

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


class HubTarget:
    """A repository on a hub, created if it does not exist: private unless ``public``. All files go in one commit.

    ``token`` None: the token that ``hf auth login`` stored.

    Raises:
        CommandFailed: ``text`` is not of the form ``hf://org/repo[@branch]``.
    """

    def __init__(
        self,
        text: str,
        *,
        public: bool,
        endpoint: str | None,
        token: str | None,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        match = _REPOSITORY.fullmatch(text.removeprefix(HUB_SCHEME))
        if match is None:
            message = f"'{text}' is not a repository; write hf://org/repo or hf://org/repo@branch"
            raise CommandFailed(ExitCode.USAGE, message)
        self.place: str = match["repo"]
        self._branch: str | None = match["branch"]
        self._public = public
        self._endpoint = endpoint
        self._token = token
        self._answer_timeout_s = answer_timeout_s

    @property
    def scratch(self) -> None:
        """None: a repository is on no file system."""

    def check(self) -> None:
        """Accept every repository: it may not exist yet."""

    def take(self, directory: Path, title: str) -> str:
        """Commit the files in ``directory`` with the message ``title``; return ``hf://org/repo@<sha>``.

        Raises:
            CommandFailed, SourceForbidden: no commit was made, or its files differ from those sent.
        """
        with self._hub_errors():
            api = hub_api(self._endpoint, self._token, answer_timeout_s=self._answer_timeout_s)
            api.create_repo(self.place, private=not self._public, exist_ok=True)
            if not self._public and not api.model_info(self.place).private:
                message = f"{self.place} is a public repository: pass --public, or name another repository"
                raise CommandFailed(ExitCode.REFUSED, message)
            if self._branch is not None:
                api.create_branch(self.place, branch=self._branch, exist_ok=True)
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
            return api.create_commit(self.place, files, commit_message=title, revision=self._branch).oid

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

    @contextmanager
    def _hub_errors(self) -> Iterator[None]:
        """Translate errors of the hub, the network and the library in the block into ``CommandFailed``."""
        try:
            yield
        except RuntimeError as wrapper:  # raised by the library around the error of a large file's upload
            if isinstance(wrapper.__cause__, PatchbayError):
                raise wrapper.__cause__ from wrapper
            raise self._failure(wrapper.__cause__ or wrapper) from wrapper
        except (httpx2.HTTPError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._failure(error) from error

    def _failure(self, error: BaseException) -> CommandFailed:
        if isinstance(error, HfHubHTTPError):
            return self._refusal(error.response.status_code)
        if isinstance(error, httpx2.HTTPError):
            return unreachable(self.place, error)
        message = f"the hub refused {self.place} or sent a malformed response, try again: {one_line(error)}"
        return CommandFailed(ExitCode.REFUSED, message)

    def _refusal(self, status: int) -> CommandFailed:
        if status in (401, 403):
            message = (
                f"the hub does not allow writing to {self.place} ({status}): set HF_TOKEN to a token with write access"
            )
            return CommandFailed(ExitCode.REFUSED, message)
        if status == httpx2.codes.NOT_FOUND:
            message = f"the hub finds no {self.place} (404): check the names of organisation and repository"
            return CommandFailed(ExitCode.NOT_FOUND, message)
        return CommandFailed(ExitCode.REFUSED, f"the hub answered {status} for {self.place}, try again")


def export_target(ctx: typer.Context, text: str, *, public: bool) -> ExportTarget:
    """Return the target that ``text`` names: ``hf://org/repo[@branch]``, else a directory.

    Raises:
        CommandFailed: it names no target, or a setting is wrong.
    """
    if text.startswith(HUB_SCHEME):
        settings = settings_of(ctx)
        return HubTarget(text, public=public, endpoint=settings.hub_endpoint, token=settings.hub_token)
    if "://" in text:
        raise CommandFailed(ExitCode.USAGE, f"cannot export to '{text}': name a directory, or hf://org/repo[@branch]")
    return DirectoryTarget(Path(text))


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_file())
