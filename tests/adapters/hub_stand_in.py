"""A hub on 127.0.0.1: repositories with commits and branches, behind the routes that huggingface_hub asks for.

What it should do wrong is put into ``faults``; what it was asked is in ``asked``.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml

JSON = "content-type: application/json\r\n"
MODEL_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
REGULAR = (".md", ".json", ".jinja", ".txt")
"""Names whose content travels in the commit; the hub keeps all others as large files."""

Answer = tuple[int, str, bytes]


@dataclass
class Fault:
    """What goes wrong with requests whose ``METHOD /path`` has ``on`` in it; ``times`` times (None: always)."""

    on: str = ""
    status: int | None = None
    redirect: str | None = None
    """Send the client to the same path there."""
    body: bytes | None = None
    """Answer 200 with these bytes."""
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    stall: bool = False
    """Say nothing until the client leaves."""
    times: int | None = None


@dataclass
class Repository:
    private: bool = True
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        sums = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
        sha = hashlib.sha1(json.dumps([len(self.commits), sums]).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def sha_of(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class HubStandIn:
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """Large files by sha256."""
    wanted_token: str | None = None
    """Needed to read private repositories, and to write; None: anybody may do anything."""
    listing: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Overrides of what is listed of a file."""
    faults: list[Fault] = field(default_factory=list)
    endpoint: str = ""
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    def add(self, repo: str, files: dict[str, bytes], *, branch: str = "main", private: bool = False) -> str:
        """Commit ``files`` as all that there is; returns the commit's sha."""
        return self.repositories.setdefault(repo, Repository(private)).commit(branch, files)

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[repo]
        return repository.commits[repository.sha_of(revision) or ""]

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[HubStandIn]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for writer in self.connections.values():
                writer.close()
            await asyncio.gather(*self.connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections[task] = writer
        try:
            while await self._exchange(await self._read(reader), reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            del self.connections[task]

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.asked.append(f"{method} {target}")
        self.tokens.append(headers.get("authorization"))
        path, _, query = target.partition("?")
        return Request(method, unquote(path), parse_qs(query), headers, body)

    async def _exchange(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer; False when the connection is to be closed."""
        fault = self._fault(request) or Fault()
        if fault.stall:
            await reader.read()
            return False
        status, headers, body = self._faulty(fault, request) or self.answer(request)
        writer.write(f"HTTP/1.1 {status} -\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode())
        if request.method != "HEAD":
            writer.write(body[: fault.cut_after])
        await writer.drain()
        return fault.cut_after is None

    def _fault(self, request: Request) -> Fault | None:
        for fault in self.faults:
            if fault.on in f"{request.method} {request.path}" and fault.times != 0:
                fault.times = None if fault.times is None else fault.times - 1
                return fault
        return None

    def _faulty(self, fault: Fault, request: Request) -> Answer | None:
        if fault.redirect is not None:
            return 307, f"location: {fault.redirect}{request.path}\r\n", b""
        if fault.status is not None:
            return fault.status, JSON, b"{}"
        return None if fault.body is None else (200, JSON, fault.body)

    def answer(self, request: Request) -> Answer:
        routes: dict[str, Callable[..., Answer]] = {
            r"POST /api/repos/create": self._create,
            r"POST /api/validate-yaml": self._validate,
            r"POST /api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<branch>.+)": self._branch,
            r"POST /api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>.+)": self._preupload,
            r"POST /api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>.+)": self._commit,
            r"POST /(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch": self._batch,
            r"PUT /large/(?P<oid>\w+)": self._put,
            r"POST /large/verify": self._verify,
            r"GET /api/models/(?P<repo>[^/]+/[^/]+)": self._info,
            r"GET /api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>.+)": self._info,
            r"GET /api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)": self._tree,
            r"(GET|HEAD) /(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)": self._resolve,
        }
        for pattern, route in routes.items():
            if found := re.fullmatch(pattern, f"{request.method} {request.path}"):
                return self._refusal(request, found.groupdict().get("repo")) or route(request, **found.groupdict())
        return 404, "", b"{}"

    def _refusal(self, request: Request, repo: str | None) -> Answer | None:
        """Large files go up by a signed URL, without a token; public repositories are read without one."""
        repository = self.repositories.get(repo or "")
        is_open = request.path.startswith("/large/") or (
            request.method in {"GET", "HEAD"} and repository is not None and not repository.private
        )
        if self.wanted_token and not is_open and request.headers.get("authorization") != f"Bearer {self.wanted_token}":
            return 401, "x-error-code: RepoNotFound\r\n" if repo else "", b'{"error": "Invalid credentials"}'
        if repo is not None and repository is None:
            return 404, "x-error-code: RepoNotFound\r\n", b"{}"
        return None

    def _create(self, request: Request) -> Answer:
        asked = request.json()
        repo = f"{asked['organization']}/{asked['name']}"
        location = {"url": f"{self.endpoint}/{repo}"}
        if repo in self.repositories:
            return 409, JSON, json.dumps({"error": "You already created this model repo"} | location).encode()
        self.add(repo, {".gitattributes": b""}, private=asked["visibility"] == "private")
        return _json(location)

    def _validate(self, request: Request) -> Answer:
        front = yaml.safe_load(request.json()["content"].split("---\n")[1])
        base = front.get("base_model", "org/name")
        if MODEL_ID.fullmatch(base):
            return _json({"errors": [], "warnings": []})
        error = f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.'
        return 400, JSON, json.dumps({"errors": [{"message": error}], "warnings": []}).encode()

    def _branch(self, _: Request, repo: str, branch: str) -> Answer:
        repository = self.repositories[repo]
        if branch in repository.branches:
            return 409, JSON, b'{"error": "Reference already exists"}'
        repository.branches[branch] = repository.branches["main"]
        return _json({})

    def _preupload(self, request: Request, repo: str, revision: str) -> Answer:
        repository = self.repositories[repo]
        if (sha := repository.sha_of(revision)) is None:
            return 404, "x-error-code: RevisionNotFound\r\n", b"{}"
        there = repository.commits[sha]
        files = [
            {
                "path": (path := asked["path"]),
                "uploadMode": "regular" if path.endswith(REGULAR) else "lfs",
                "shouldIgnore": False,
                **({"oid": _oid(path, there[path])} if path in there else {}),
            }
            for asked in request.json()["files"]
        ]
        return _json({"files": files})

    def _batch(self, request: Request, repo: str) -> Answer:
        actions = {
            oid: {
                "upload": {"href": f"{self.endpoint}/large/{oid}"},
                "verify": {"href": f"{self.endpoint}/large/verify"},
            }
            for asked in request.json()["objects"]
            if (oid := asked["oid"]) not in self.large
        }
        objects = [
            {**asked, **({"actions": actions[asked["oid"]]} if asked["oid"] in actions else {})}
            for asked in request.json()["objects"]
        ]
        return _json({"transfer": "basic", "objects": objects})

    def _put(self, request: Request, oid: str) -> Answer:
        if hashlib.sha256(request.body).hexdigest() != oid:
            return 400, "", b"BadDigest"
        self.large[oid] = request.body
        return 200, "", b""

    def _verify(self, request: Request) -> Answer:
        return _json({}) if request.json()["oid"] in self.large else (404, "", b"{}")

    def _commit(self, request: Request, repo: str, revision: str) -> Answer:
        files = dict(self.files(repo, revision))
        for line in request.body.splitlines():
            entry = json.loads(line)
            file = entry["value"]
            if entry["key"] == "file":
                files[file["path"]] = base64.b64decode(file["content"])
            elif entry["key"] == "lfsFile":
                files[file["path"]] = self.large[file["oid"]]
        sha = self.repositories[repo].commit(revision, files)
        return _json({"success": True, "commitOid": sha, "commitUrl": f"{self.endpoint}/{repo}/commit/{sha}"})

    def _info(self, request: Request, repo: str, revision: str = "main") -> Answer:
        repository = self.repositories[repo]
        if (sha := repository.sha_of(revision)) is None:
            return 404, "x-error-code: RevisionNotFound\r\n", b"{}"
        siblings = [{"rfilename": path} for path in repository.commits[sha]]
        if "blobs" in request.query:
            siblings = [
                {"rfilename": path} | listed(content) | self.listing.get(path, {})
                for path, content in repository.commits[sha].items()
            ]
        return _json({"id": repo, "sha": sha, "private": repository.private, "siblings": siblings})

    def _tree(self, _: Request, repo: str, revision: str) -> Answer:
        files = self.files(repo, revision)
        return _json(
            [
                {"type": "file", "path": path, "oid": hashlib.sha1(content).hexdigest()} | _sizes(content)
                for path, content in files.items()
            ]
        )

    def _resolve(self, _: Request, repo: str, revision: str, path: str) -> Answer:
        if (sha := self.repositories[repo].sha_of(revision)) is None:
            return 404, "x-error-code: RevisionNotFound\r\n", b""
        files = self.repositories[repo].commits[sha]
        if path not in files:
            return 404, "x-error-code: EntryNotFound\r\n", b""
        etag = hashlib.sha256(files[path]).hexdigest()
        return 200, f'etag: "{etag}"\r\nx-repo-commit: {sha}\r\n', files[path]


def listed(content: bytes) -> dict[str, Any]:
    """What a repository's listing says of a file, large or not."""
    return {
        "size": len(content),
        "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1},
    }


def _sizes(content: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"size": len(content), "lfs": {"oid": sha256, "size": len(content), "pointerSize": 1}}


def _oid(path: str, content: bytes) -> str:
    """What the hub calls the content: git's sum of a blob, and sha256 of a large file."""
    if not path.endswith(REGULAR):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _json(value: Any) -> Answer:
    return 200, JSON, json.dumps(value).encode()
