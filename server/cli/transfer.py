"""Uploads and downloads of adapters and other files, streamed: never whole in memory."""

import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from adapters.lora import initial_adapter
from adapters.publish_options import PublishOptions
from adapters.storage.manifest import EVERY_FILE, FILES, INITIAL, TOKENIZER_FILES
from server.cli.client import ApiClient, Json
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import show_note, spinner, transfer_progress

_SHOWN: Final = 10
_HUB_ID: Final = re.compile(r"(?P<org>\w[\w.-]*)/(?P<repo>\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def adapter_name(source: str) -> str:
    """Return the default name of an adapter from ``source``: that of the directory or repository."""
    if not Path(source).is_dir() and (hub := _HUB_ID.fullmatch(source)):
        return hub["repo"]
    return Path(source).resolve().name


def push(server: ApiClient, name: str, source: str, options: PublishOptions) -> Json:
    """Publish ``source`` with ``options``; return the version's JSON.

    ``source`` is a directory of this machine, or a URL or hub id that the server downloads.
    """
    path = f"/v1/adapters/{name}/versions"
    if Path(source).is_dir():
        return _upload(server, path, _adapter_in(Path(source)), options)
    if Path(source).is_file():
        message = f"'{source}' is a file: name the directory that holds {' and '.join(FILES)}; unpack an archive first"
        raise CommandFailed(ExitCode.USAGE, message)
    if "://" not in source and not _HUB_ID.fullmatch(source):
        message = f"'{source}' is neither a directory here nor a hub id such as org/repo@revision"
        raise CommandFailed(ExitCode.USAGE, message)
    body = {"source": source if "://" in source else f"hf://{source}"}
    try:
        with spinner(f"publishing {body['source']}"):
            return server.post(path, {**body, **options.stated()})
    except CommandFailed as failed:
        if "://" in source or failed.details:
            raise
        message = f"{failed.message}; and there is no directory {source} here"
        raise CommandFailed(failed.code, message) from failed


def _adapter_in(directory: Path) -> Path:
    """Return ``directory`` if an adapter lies in it, else the only folder below it with one; CommandFailed if none."""
    missing = [file for file in FILES if not (directory / file).is_file()]
    if not missing:
        return directory
    below = sorted(config.parent for depth in ("*", "*/*") for config in directory.glob(f"{depth}/{FILES[0]}"))
    found = [folder for folder in below if (folder / FILES[1]).is_file() and folder.name not in initial_adapter.FOLDERS]
    if len(missing) == len(FILES) and len(found) == 1:
        show_note(f"{directory} holds one adapter, in {found[0].relative_to(directory)}/, which is pushed")
        return found[0]
    message = f"{directory} has no {' and no '.join(missing)}; name a directory that PEFT saved"
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        message += f", such as {', '.join(map(str, found[:_SHOWN]))}{more}"
    raise CommandFailed(ExitCode.USAGE, message)


def _upload(server: ApiClient, path: str, directory: Path, options: PublishOptions) -> Json:
    with ExitStack() as opened:
        progress = opened.enter_context(transfer_progress())
        files = {
            file: (file, opened.enter_context(progress.open(path, "rb", description=file)))
            for file, path in _files_of(directory).items()
        }
        return server.send("POST", path, files=files, params=options.stated())


def _files_of(directory: Path) -> dict[str, Path]:
    """Return the files of ``directory`` to send, by upload name, with the initial adapter's if they are needed.

    Those of the tokenizer are sent too: the server says where they differ from the base model's.
    """
    beside = (file for file in TOKENIZER_FILES if (directory / file).is_file())
    files = {file: directory / file for file in (*FILES, *beside)}
    first = initial_adapter.folder_in(directory)
    if first is None or not initial_adapter.is_needed(directory):
        return files
    return files | {f"{INITIAL}/{file}": directory / first / file for file in FILES}


def pull(server: ApiClient, path: str, directory: Path, form: str = "served") -> None:
    """Download the files of the version at ``path``; no file gets its final name before all have arrived.

    ``form``: "served", or "original" for those uploaded before they were compiled to plain LoRA.
    """
    files = []
    for file in server.get(f"{path}/content", form=form)["data"]:
        name = file["name"]
        if name not in EVERY_FILE:  # untrusted, and becomes a path
            raise CommandFailed(ExitCode.REFUSED, f"the server sent the unexpected file {name!r}")
        files.append((f"{path}/content/{name}", directory / name, file["size_bytes"]))
    _download_all(server, files, form=form)


def pull_model(server: ApiClient, path: str, directory: Path) -> None:
    """Download the files of the whole model at ``path``; no file gets its final name before all have arrived."""
    files = []
    for file in server.get(path)["data"]:
        name = file["name"]
        if Path(name).name != name:  # untrusted, and becomes a path
            raise CommandFailed(ExitCode.REFUSED, f"the server sent the unexpected file {name!r}")
        files.append((f"{path}/{name}", directory / name, file["size_bytes"]))
    _download_all(server, files)


def push_file(server: ApiClient, path: Path, purpose: str) -> Json:
    """Upload the file at ``path`` and return its JSON."""
    with transfer_progress() as progress, progress.open(path, "rb", description=path.name) as content:
        return server.send("POST", "/v1/files", data={"purpose": purpose}, files={"file": (path.name, content)})


def pull_file(server: ApiClient, path: str, to: Path, size_bytes: int) -> None:
    """Download ``path`` to the file ``to``, which appears only once it is complete."""
    _download_all(server, [(path, to, size_bytes)])


def _download_all(server: ApiClient, files: Iterable[tuple[str, Path, int]], **query: str) -> None:
    """Download ``files``: each a path on the server, a path here and a size in bytes."""
    parts: list[tuple[Path, Path]] = []
    try:
        for path, to, size_bytes in files:
            to.parent.mkdir(parents=True, exist_ok=True)
            part = to.with_name(f".{to.name}.part")
            parts.append((part, to))
            _download(server, path, part, size_bytes, **query)
        for part, to in parts:
            part.replace(to)
    finally:
        for part, _ in parts:
            part.unlink(missing_ok=True)


def _download(server: ApiClient, path: str, to: Path, size_bytes: int, **query: str) -> None:
    with server.stream("GET", path, params=query) as response, to.open("wb") as file, transfer_progress() as progress:
        task = progress.add_task(to.name.strip(".").removesuffix(".part"), total=size_bytes)
        for chunk in response.iter_bytes():
            file.write(chunk)
            progress.advance(task, len(chunk))
    if (received := to.stat().st_size) != size_bytes:
        message = f"{path}: {received} bytes arrived, {size_bytes} were announced; try again"
        raise CommandFailed(ExitCode.REFUSED, message)
