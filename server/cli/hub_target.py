"""A repository on a hub that files are exported to, by the hub's own client."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from adapters.errors import PatchbayError
from adapters.storage.manifest import FileEntry
from server.cli.failure import CommandFailed, ExitCode
from server.cli.hub_client import ANSWER_TIMEOUT_S, hub_api
from server.cli.output import transfer_progress

HUB_SCHEME: Final = "hf://"
_TARGET: Final = re.compile(
    r"(?P<repo>[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95})(?:@(?P<branch>[\w-][\w./-]{0,199}))?", re.ASCII
)


class HubTarget:
    """``org/repo``, made where it is not there: private unless ``public``. Files go there in one commit.

    Without ``token`` it is the one that ``hf auth login`` left on this machine.

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
        found = _TARGET.fullmatch(text.removeprefix(HUB_SCHEME))
        if found is None:
            raise CommandFailed(
                ExitCode.USAGE, f"'{text}' is no repository; write hf://org/repo or hf://org/repo@branch"
            )
        self.place: str = found["repo"]
        self._branch: str | None = found["branch"]
        self._public = public
        self._endpoint = endpoint
        self._token = token
        self._answer_timeout_s = answer_timeout_s

    @property
    def scratch(self) -> None:
        """None: it is on no file system."""

    def check(self) -> None:
        """Nothing is known of a repository before it is made."""

    def take(self, directory: Path, title: str) -> str:
        """Commit the files in ``directory`` under ``title``; return where they are: ``hf://org/repo@<sha>``.

        Raises:
            CommandFailed, SourceForbidden: no commit was made, or it is not what was sent.
        """
        with self._asked():
            api = hub_api(self._endpoint, self._token, answer_timeout_s=self._answer_timeout_s)
            api.create_repo(self.place, private=not self._public, exist_ok=True)
            if not self._public and not api.model_info(self.place).private:
                raise CommandFailed(
                    ExitCode.REFUSED, f"everybody can read {self.place}: pass --public, or name another repository"
                )
            if self._branch is not None:
                api.create_branch(self.place, branch=self._branch, exist_ok=True)
            sha = self._commit(api, directory, title)
            self._compare(api, directory, sha)
        return f"{HUB_SCHEME}{self.place}@{sha}"

    def _commit(self, api: HfApi, directory: Path, title: str) -> str:
        # Open files go up over HTTP, through the client above. Paths would go through Xet, which has a client of its
        # own and is spoken by one hub only. The library warns that it does what it is asked here.
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
                raise CommandFailed(
                    ExitCode.REFUSED,
                    f"the hub lists other bytes of {self.place}/{path.name} than were sent: do not use commit {sha}",
                )

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Say in our own words what the hub, the network or the library answered."""
        try:
            yield
        except RuntimeError as wrapped:  # so it tells of a large file that did not get through
            if isinstance(wrapped.__cause__, PatchbayError):
                raise wrapped.__cause__ from wrapped
            raise self._failure(wrapped.__cause__ or wrapped) from wrapped
        except (httpx2.HTTPError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._failure(error) from error

    def _failure(self, error: BaseException) -> CommandFailed:
        if isinstance(error, HfHubHTTPError):
            return self._refusal(error.response.status_code)
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx2.HTTPError):
            return CommandFailed(
                ExitCode.UNREACHABLE, f"the hub could not be reached for {self.place}, try again: {reason}"
            )
        return CommandFailed(
            ExitCode.REFUSED, f"the hub answered {self.place} with a refusal, or nonsense: {' '.join(reason.split())}"
        )

    def _refusal(self, status: int) -> CommandFailed:
        if status in (401, 403):
            return CommandFailed(
                ExitCode.REFUSED,
                f"the hub does not let you write to {self.place} ({status}): set HF_TOKEN to a token that may",
            )
        if status == httpx2.codes.NOT_FOUND:
            return CommandFailed(ExitCode.NOT_FOUND, f"the hub has no place for {self.place} (404): is the name right?")
        return CommandFailed(ExitCode.REFUSED, f"the hub answered {status} for {self.place}, try again")


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_file())
