"""The hub source against a hub on 127.0.0.1."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi

from adapters.errors import SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnavailable
from adapters.sources.address import parse_source
from adapters.sources.hub import HubHosts, HubSource
from adapters.sources.lora_path import parse_lora_path
from adapters.sources.rules import SourceRules
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE
from adapters.storage.staging import Staging
from tests.adapters.hub_stand_in import Fault, HubStandIn, listed

TOKEN = "hf_secret"
FILES = {CONFIG_FILE: b'{"r": 8}', WEIGHTS_FILE: b"w" * 100_000, "optimizer.pt": b"pickle", "README.md": b"#"}
AT_ONCE = (0.0, 0.0)


@pytest.fixture
async def hub() -> AsyncIterator[HubStandIn]:
    """Has ``org/sql``, for everybody."""
    async with HubStandIn().listening() as hub:
        hub.add("org/sql", dict(FILES))
        yield hub


@pytest.fixture
async def content_host() -> AsyncIterator[HubStandIn]:
    async with HubStandIn().listening() as host:
        host.add("org/sql", dict(FILES))
        yield host


@pytest.fixture
def commit(hub: HubStandIn) -> str:
    return hub.repositories["org/sql"].branches["main"]


@pytest.fixture
def source(hub: HubStandIn) -> HubSource:
    return HubSource("org/sql", endpoint=hub.endpoint, retry_after_s=AT_ONCE)


async def test_two_files_arrive_at_the_commit_and_nothing_else_is_asked(
    hub: HubStandIn, commit: str, source: HubSource, staging: Staging
):
    async with staging.open() as staged:
        assert await source.fetch(staged) == f"hf://org/sql@{commit}"
        assert {path.name: path.read_bytes() for path in staged.path.iterdir()} == {
            name: FILES[name] for name in (CONFIG_FILE, WEIGHTS_FILE)
        }
    assert hub.asked == [
        "GET /api/models/org/sql/revision/main?blobs=true",
        f"GET /org/sql/resolve/{commit}/{CONFIG_FILE}",
        f"GET /org/sql/resolve/{commit}/{WEIGHTS_FILE}",
    ]
    assert set(hub.tokens) == {None}


@pytest.mark.parametrize("folder", ["checkpoint-500", "loras/sql", "a/b/c/d"])
async def test_an_adapter_in_a_folder_of_a_repository_is_read_there(hub: HubStandIn, staging: Staging, folder: str):
    files = {f"{folder}/{name}": content for name, content in FILES.items()}
    hub.add(
        "org/many", {**files, CONFIG_FILE: b"another", WEIGHTS_FILE: b"another", f"{folder}/chat_template.jinja": b"t"}
    )
    rules = SourceRules(hub_endpoint=hub.endpoint)
    commit = hub.repositories["org/many"].branches["main"]
    async with staging.open() as staged:
        origin = await parse_source(f"hf://org/many/{folder}@main", rules).fetch(staged)
        assert origin == f"hf://org/many/{folder}@{commit}"
        assert (staged.path / WEIGHTS_FILE).read_bytes() == FILES[WEIGHTS_FILE]
        assert staged.tokenizer_files == {"chat_template.jinja": b"t"}


async def test_a_folder_without_an_adapter_is_named(hub: HubStandIn, staging: Staging):
    rules = SourceRules(hub_endpoint=hub.endpoint)
    async with staging.open() as staged:
        with pytest.raises(SourceNotFound, match=r"org/sql at main has no checkpoint-500/adapter_config\.json"):
            await parse_source("hf://org/sql/checkpoint-500", rules).fetch(staged)
        with pytest.raises(SourceNotFound, match=r"checkpoint-500.*and there is no directory org/sql/checkpoint-500"):
            await parse_lora_path("org/sql/checkpoint-500", rules).fetch(staged)


@pytest.mark.parametrize("folder", ["initial", "pissa_init"])
async def test_the_first_adapter_comes_along_where_the_config_needs_it(hub: HubStandIn, staging: Staging, folder: str):
    first = {f"{folder}/{name}": FILES[name] for name in (CONFIG_FILE, WEIGHTS_FILE)}
    pissa = {CONFIG_FILE: b'{"init_lora_weights": "pissa_niter_4"}', WEIGHTS_FILE: b"v" * 1000}
    for repository, files, kept in (("org/pissa", pissa, first), ("org/sql", FILES, {})):
        hub.add(repository, {**files, **first})
        async with staging.open() as staged:
            await HubSource(repository, endpoint=hub.endpoint, retry_after_s=AT_ONCE).fetch(staged)
            names = {str(path.relative_to(staged.path)) for path in staged.path.rglob("*.*")}
            assert names == {CONFIG_FILE, WEIGHTS_FILE} | {name.replace(folder, "initial") for name in kept}


async def test_a_branch_and_a_commit_are_revisions(hub: HubStandIn, commit: str, staging: Staging):
    hub.repositories["org/sql"].branches["runs/7"] = commit
    hub.add("org/sql", {})
    for revision in ("runs/7", commit):
        async with staging.open() as staged:
            assert await HubSource("org/sql", revision, endpoint=hub.endpoint).fetch(staged) == f"hf://org/sql@{commit}"


async def test_the_stand_in_is_read_by_the_hubs_own_client(hub: HubStandIn, tmp_path: Path):
    api = HfApi(hub.endpoint, token=False)
    found = Path(await asyncio.to_thread(api.snapshot_download, "org/sql", local_dir=tmp_path))
    assert {path.name: path.read_bytes() for path in found.iterdir() if path.is_file()} == FILES


async def test_a_token_opens_a_private_repository(hub: HubStandIn, staging: Staging):
    hub.repositories["org/sql"].private, hub.wanted_token = True, TOKEN
    async with staging.open() as staged:
        await HubSource("org/sql", endpoint=hub.endpoint, token=TOKEN).fetch(staged)


async def test_a_token_stays_with_the_hub_when_it_redirects(
    hub: HubStandIn, content_host: HubStandIn, staging: Staging
):
    hub.faults = [Fault("/resolve/", redirect=content_host.endpoint)]
    async with staging.open() as staged:
        await HubSource("org/sql", endpoint=hub.endpoint, token=TOKEN).fetch(staged)
    assert hub.tokens == [f"Bearer {TOKEN}"] * 3
    assert content_host.tokens == [None, None]


async def test_without_a_token_a_private_repository_is_forbidden(hub: HubStandIn, source: HubSource, staging: Staging):
    hub.repositories["org/sql"].private, hub.wanted_token = True, TOKEN
    async with staging.open() as staged:
        with pytest.raises(SourceForbidden, match="HF_TOKEN"):
            await source.fetch(staged)


@pytest.mark.parametrize("at", ["/api/", "/resolve/"])
@pytest.mark.parametrize(
    "place",
    [
        "http://169.254.169.254",
        "http://10.0.0.7",
        "http://192.168.1.1:8080",
        "http://localhost:6379",
        "http://[::1]",
        "http://[::ffff:10.0.0.7]",
        "http://0.0.0.0",
        "http://192.0.0.192",
        "http://168.63.129.16",
        "http://[64:ff9b::a9fe:a9fe]",
        "http://[64:ff9b:1::a00:7]",
        "http://[::10.0.0.7]",
        "http://[::ffff:0:10.0.0.7]",
        "http://[fec0::1]",
        "http://[2002:a00:7::]",
        "http://[2001:0:a00:7::]",
    ],
)
async def test_a_redirect_into_the_servers_own_network_is_not_followed(
    hub: HubStandIn, source: HubSource, staging: Staging, at: str, place: str
):
    hub.faults = [Fault(at, redirect=place)]
    async with staging.open() as staged:
        with pytest.raises(SourceForbidden, match="not on the public internet: not followed"):
            await source.fetch(staged)
        assert list(staged.path.glob(WEIGHTS_FILE)) == []


@pytest.mark.parametrize(
    ("endpoint", "url", "is_allowed"),
    [
        ("https://hub.example", "https://hub.example:444/x", True),
        ("https://hub.example", "https://1.1.1.1/x", True),
        ("https://hub.example", "http://hub.example/x", False),
        ("https://hub.example", "http://1.1.1.1/x", False),
        ("http://10.0.0.7", "http://10.0.0.7:9000/x", True),
        ("http://10.0.0.7", "http://10.0.0.8/x", False),
        ("http://10.0.0.7", "https://no-such-host.invalid/x", True),
    ],
)
def test_a_hub_may_send_to_itself_and_to_public_addresses_with_encryption(endpoint: str, url: str, is_allowed: bool):
    request = httpx2.Request("GET", url)
    if is_allowed:
        HubHosts(endpoint).check(request)
        return
    with pytest.raises(SourceForbidden, match="not followed"):
        HubHosts(endpoint).check(request)


def test_where_the_hub_is_forbidden_nothing_is_asked():
    program = (
        "import httpx2; from adapters.errors import SourceForbidden; from adapters.sources.hub import HubHosts\n"
        "try: HubHosts('https://hub.example').check(httpx2.Request('GET', 'https://hub.example'))\n"
        "except SourceForbidden as refused: print(refused)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("HF_HUB_OFFLINE forbids")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, SourceForbidden),
        (403, SourceForbidden),
        (404, SourceNotFound),
        (429, SourceUnavailable),
        (500, SourceUnavailable),
        (503, SourceUnavailable),
    ],
)
async def test_a_refusal_has_its_own_error(
    hub: HubStandIn, source: HubSource, staging: Staging, status: int, error: type[Exception]
):
    hub.faults = [Fault(status=status)]
    async with staging.open() as staged:
        with pytest.raises(error, match="org/sql"):
            await source.fetch(staged)


async def test_a_refused_download_has_its_own_error(hub: HubStandIn, source: HubSource, staging: Staging):
    hub.faults = [Fault("/resolve/", status=403)]
    async with staging.open() as staged:
        with pytest.raises(SourceForbidden):
            await source.fetch(staged)


@pytest.mark.parametrize("at", ["/api/", f"/{CONFIG_FILE}", f"/{WEIGHTS_FILE}"])
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_an_answer_that_says_later_is_asked_for_again(
    hub: HubStandIn, commit: str, source: HubSource, staging: Staging, at: str, status: int
):
    hub.faults = [Fault(at, status=status, times=len(AT_ONCE))]
    async with staging.open() as staged:
        assert await source.fetch(staged) == f"hf://org/sql@{commit}"
        assert {file.name: file.read_bytes() for file in staged.path.iterdir()}[WEIGHTS_FILE] == FILES[WEIGHTS_FILE]
    assert len(hub.asked) == 3 + len(AT_ONCE)


async def test_a_refusal_is_not_asked_for_again(hub: HubStandIn, source: HubSource, staging: Staging):
    hub.faults = [Fault(status=404)]
    async with staging.open() as staged:
        with pytest.raises(SourceNotFound):
            await source.fetch(staged)
    assert len(hub.asked) == 1


async def test_an_unknown_revision_is_not_found(hub: HubStandIn, staging: Staging):
    async with staging.open() as staged:
        with pytest.raises(SourceNotFound, match="revision 'v9'"):
            await HubSource("org/sql", "v9", endpoint=hub.endpoint).fetch(staged)


async def test_pickled_weights_are_not_fetched(hub: HubStandIn, source: HubSource, staging: Staging):
    files = hub.files("org/sql")
    files["adapter_model.bin"] = files.pop(WEIGHTS_FILE)
    async with staging.open() as staged:
        with pytest.raises(SourceNotFound, match=r"it holds README\.md, .*adapter_model\.bin"):
            await source.fetch(staged)
        assert list(staged.path.iterdir()) == []


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"siblings": 3}'])
async def test_nonsense_is_called_so(hub: HubStandIn, source: HubSource, staging: Staging, body: bytes):
    hub.faults = [Fault("/api/", body=body)]
    async with staging.open() as staged:
        with pytest.raises(SourceUnavailable):
            await source.fetch(staged)


@pytest.mark.parametrize("at", ["/api/", "/resolve/"])
async def test_a_truncated_body_is_noticed(hub: HubStandIn, source: HubSource, staging: Staging, at: str):
    hub.faults = [Fault(at, cut_after=3)]
    async with staging.open() as staged:
        with pytest.raises(SourceUnavailable, match="try again"):
            await source.fetch(staged)


@pytest.mark.parametrize("lie", [{"size": 3, "lfs": None}, listed(b"x" * 8)])
async def test_other_bytes_than_listed_are_noticed(
    hub: HubStandIn, source: HubSource, staging: Staging, lie: dict[str, Any]
):
    hub.listing = {CONFIG_FILE: lie}
    async with staging.open() as staged:
        with pytest.raises(SourceUnavailable, match="other bytes"):
            await source.fetch(staged)


async def test_a_hub_that_is_down_is_unavailable(staging: Staging):
    async with staging.open() as staged:
        with pytest.raises(SourceUnavailable, match="could not be reached"):
            await HubSource("org/sql", endpoint="http://127.0.0.1:1").fetch(staged)


@pytest.mark.parametrize("at", ["/api/", "/resolve/"])
async def test_a_silent_hub_is_given_up(hub: HubStandIn, staging: Staging, at: str):
    hub.faults = [Fault(at, stall=True)]
    async with staging.open() as staged:
        with pytest.raises(SourceUnavailable, match="could not be reached"):
            await HubSource("org/sql", endpoint=hub.endpoint, answer_timeout_s=0.2).fetch(staged)


async def test_a_hub_that_takes_too_long_is_given_up(hub: HubStandIn, staging: Staging):
    async with staging.open() as staged:
        with pytest.raises(SourceUnavailable, match="took longer than 0 s"):
            await HubSource("org/sql", endpoint=hub.endpoint, deadline_s=0).fetch(staged)


async def test_an_adapter_larger_than_accepted_stops_early(hub: HubStandIn, source: HubSource, staging: Staging):
    hub.files("org/sql")[WEIGHTS_FILE] = b"w" * 1_000_001
    async with staging.open() as staged:
        with pytest.raises(SourceTooLarge):
            await source.fetch(staged)
