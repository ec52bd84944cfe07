from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import GCSStore, S3Store

from adapters.errors import AdapterRefused, SourceForbidden, SourceNotFound
from adapters.sources.address import parse_source
from adapters.sources.bucket import BucketSource
from adapters.sources.directory import DirectorySource
from adapters.sources.hub import HubSource
from adapters.sources.rules import BUCKET_SCHEMES, SourceRules, plain_bucket_url
from adapters.sources.source import Source
from adapters.sources.upload import UploadSource
from adapters.storage.manifest import CONFIG_FILE, FILES, WEIGHTS_FILE, Manifest
from adapters.storage.object_store import open_store
from adapters.storage.staging import Staging

TOKENIZER = "tokenizer_config.json"

WriteAdapter = Callable[..., Path]


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    directory = tmp_path / "sources"
    directory.mkdir()
    return directory


async def test_a_directory_is_copied(write_adapter: WriteAdapter, allowed: Path, staging: Staging):
    directory = write_adapter()
    (directory / "optimizer.pt").write_bytes(b"pickle")
    async with staging.open() as staged:
        assert await DirectorySource(directory, [allowed]).fetch(staged) == directory.as_uri()
        assert staged.manifest() == Manifest.of(directory)
        assert len(list(staged.path.iterdir())) == 2


async def test_a_way_station_gives_its_own_origin(write_adapter: WriteAdapter, allowed: Path, staging: Staging):
    async with staging.open() as staged:
        source = DirectorySource(write_adapter(), [allowed], origin="job:ftjob-1")
        assert await source.fetch(staged) == "job:ftjob-1"


async def test_links_inside_the_allowed_directory_are_followed(
    write_adapter: WriteAdapter, allowed: Path, staging: Staging
):
    (allowed / "latest").symlink_to(write_adapter())
    async with staging.open() as staged:
        await DirectorySource(allowed / "latest", [allowed]).fetch(staged)


@pytest.mark.parametrize("way_out", ["outside", "sources/../outside", "sources/link", "sources-too"])
async def test_a_directory_outside_is_forbidden_whether_it_exists_or_not(
    write_adapter: WriteAdapter, allowed: Path, staging: Staging, tmp_path: Path, way_out: str
):
    outside = write_adapter(under=tmp_path / "outside").parent
    (allowed / "link").symlink_to(outside)
    for leaf in ("adapter-0", "missing"):
        async with staging.open() as staged:
            with pytest.raises(SourceForbidden, match="--source-dir DIR"):
                await DirectorySource(tmp_path / way_out / leaf, [allowed]).fetch(staged)


async def test_a_file_that_links_outside_is_forbidden(
    write_adapter: WriteAdapter, allowed: Path, staging: Staging, tmp_path: Path
):
    directory = write_adapter()
    (tmp_path / "secret").write_text("secret")
    (directory / CONFIG_FILE).unlink()
    (directory / CONFIG_FILE).symlink_to(tmp_path / "secret")
    async with staging.open() as staged:
        with pytest.raises(SourceForbidden):
            await DirectorySource(directory, [allowed]).fetch(staged)


async def test_without_allowed_directories_none_is_read(write_adapter: WriteAdapter, staging: Staging):
    async with staging.open() as staged:
        with pytest.raises(SourceForbidden, match="allowed now: none"):
            await DirectorySource(write_adapter(), []).fetch(staged)


async def test_a_directory_without_the_files_says_what_it_holds(allowed: Path, staging: Staging):
    (allowed / "adapter_model.bin").write_bytes(b"pickle")
    async with staging.open() as staged:
        with pytest.raises(SourceNotFound, match=r"has no adapter_config\.json; it holds adapter_model\.bin"):
            await DirectorySource(allowed, [allowed]).fetch(staged)
        with pytest.raises(SourceNotFound):
            await DirectorySource(allowed / "missing", [allowed]).fetch(staged)


async def test_a_named_pipe_does_not_hold_the_server(write_adapter: WriteAdapter, allowed: Path, staging: Staging):
    directory = write_adapter()
    (directory / WEIGHTS_FILE).unlink()
    os.mkfifo(directory / WEIGHTS_FILE)
    async with staging.open() as staged:
        with pytest.raises(SourceForbidden, match="not a regular file"):
            await DirectorySource(directory, [allowed]).fetch(staged)


async def test_a_directory_in_place_of_a_file_is_refused(write_adapter: WriteAdapter, allowed: Path, staging: Staging):
    directory = write_adapter()
    (directory / WEIGHTS_FILE).unlink()
    (directory / WEIGHTS_FILE).mkdir()
    async with staging.open() as staged:
        with pytest.raises(SourceForbidden, match="not a regular file"):
            await DirectorySource(directory, [allowed]).fetch(staged)


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def parts(*names: str) -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
    for name in names:
        yield name, chunks(b"a", b"b")


async def test_an_upload_arrives_in_any_order(staging: Staging):
    async with staging.open() as staged:
        assert await UploadSource(parts(WEIGHTS_FILE, CONFIG_FILE)).fetch(staged) == "upload"
        assert staged.manifest().size_bytes == 4


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "ADAPTER_MODEL.BIN", "x/adapter_model.pth"])
@pytest.mark.parametrize("others", [(CONFIG_FILE,), (CONFIG_FILE, WEIGHTS_FILE)])
async def test_a_pickle_in_the_place_of_the_weights_is_refused(staging: Staging, name: str, others: tuple[str, ...]):
    async with staging.open() as staged:
        with pytest.raises(AdapterRefused, match="a pickle, left unread"):
            await UploadSource(parts(*others, name)).fetch(staged)


async def test_what_a_trainer_leaves_beside_an_adapter_is_left_out(staging: Staging):
    beside = [
        "README.md",
        "optimizer.pt",
        "rng_state_0.pth",
        "training_args.bin",
        "trainer_state.json",
        "global_step5/x.pt",
    ]
    async with staging.open() as staged:
        await UploadSource(parts(*beside[:3], CONFIG_FILE, *beside[3:], WEIGHTS_FILE)).fetch(staged)
        assert {path.name for path in staged.path.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE}
        [note] = staged.notes()
        assert all(name in note for name in beside)


async def test_a_note_lists_some_of_many_files(staging: Staging):
    async with staging.open() as staged:
        await UploadSource(parts(CONFIG_FILE, WEIGHTS_FILE, *(f"{n}.txt" for n in range(99)), "\x1b[31m")).fetch(staged)
        [note] = staged.notes()
        assert note.endswith("9.txt and 90 more")
        assert note.isprintable()


async def test_a_folder_without_the_adapter_is_refused_with_what_was_sent(staging: Staging):
    async with staging.open() as staged:
        await UploadSource(parts("checkpoint-500/adapter_config.json", "pytorch_model.bin")).fetch(staged)
        with pytest.raises(AdapterRefused, match=r"safetensors: found only adapter_config\.json, pytorch_model\.bin"):
            staged.manifest()


def files_in(*folders: str, files: tuple[str, ...] = FILES) -> list[str]:
    return [f"{folder}{name}" for folder in folders for name in files]


async def received(staging: Staging, *names: str) -> tuple[dict[str, bytes], list[str], set[str]]:
    """Return the staged ones of files that hold their own names, the notes, and the tokenizer's files."""

    async def sent() -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
        for name in names:
            yield name, chunks(name.encode())

    async with staging.open() as staged:
        await UploadSource(sent()).fetch(staged)
        written = {name: (staged.path / name).read_bytes() for name in staged.manifest().files}
        return written, staged.notes(), set(map(bytes.decode, staged.tokenizer_files.values()))


@pytest.mark.parametrize("folder", ["checkpoint-500/", "./", "outputs/checkpoint-500/", "/srv/outputs/", "a\\b\\"])
async def test_a_folder_is_known_by_the_adapter_in_it(staging: Staging, folder: str):
    staged, notes, _ = await received(staging, *files_in(folder))
    assert staged == {name: f"{folder}{name}".encode() for name in FILES}
    assert notes == []


@pytest.mark.parametrize("first", ["initial", "pissa_init"])
async def test_a_folder_brings_its_initial_adapter(staging: Staging, first: str):
    staged, _, _ = await received(staging, *files_in(f"out/{first}/", "out/"))
    assert staged == {
        **{name: f"out/{name}".encode() for name in FILES},
        **{f"initial/{name}": f"out/{first}/{name}".encode() for name in FILES},
    }


@given(order=st.permutations(files_in("out/", "out/checkpoint-5/", "out/checkpoint-10/", files=(*FILES, TOKENIZER))))
async def test_a_trainers_output_is_the_adapter_above_its_checkpoints_in_any_order(tmp_path_factory, order: list[str]):
    staging = Staging(tmp_path_factory.getbasetemp() / "staging", max_bytes=1000)
    staged, [note], tokenizer = await received(staging, *order)
    assert staged == {name: f"out/{name}".encode() for name in FILES}
    assert note.endswith("were left out: out/checkpoint-10/, out/checkpoint-5/")
    assert tokenizer == {f"out/{TOKENIZER}"}


@given(order=st.permutations(files_in("checkpoint-5/", "checkpoint-10/")))
async def test_checkpoints_beside_each_other_are_refused_by_name(tmp_path_factory, order: list[str]):
    staging = Staging(tmp_path_factory.getbasetemp() / "staging", max_bytes=1000)
    with pytest.raises(AdapterRefused, match="several folders: checkpoint-10, checkpoint-5; needed the files of one"):
        await received(staging, *order)


def packed(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("checkpoint-5/adapter_config.json", "{}")
    else:
        with tarfile.open(fileobj=file, mode=f"w:{kind.partition('.')[2]}") as archive:
            archive.addfile(tarfile.TarInfo("checkpoint-5/adapter_config.json"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "named"),
    {"zip": "zip", "tar": "tar", "tar.gz": "gzip", "tar.bz2": "bzip2", "tar.xz": "xz"}.items(),
)
@pytest.mark.parametrize("piece", [1, 10**6])
async def test_an_archive_is_refused_by_its_kind(staging: Staging, kind: str, named: str, piece: int):
    content = packed(kind)

    async def sent() -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
        yield "upload", chunks(*(content[start : start + piece] for start in range(0, len(content), piece)))

    async with staging.open() as staged:
        with pytest.raises(AdapterRefused, match=f"upload: found an? {named} archive; needed .*: unpack it"):
            await UploadSource(sent()).fetch(staged)


async def test_a_tokenizers_files_are_kept_for_a_comparison_unless_they_are_large(staging: Staging):
    async def large() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(1 << 20)

    async with staging.open() as staged:
        await staged.keep_tokenizer_file("added_tokens.json", large())
        await staged.keep_tokenizer_file("chat_template.jinja", chunks(b"a", b"b"))
        assert staged.tokenizer_files == {"chat_template.jinja": b"ab"}


async def test_a_directory_brings_its_tokenizers_files(staging: Staging, write_adapter: WriteAdapter, tmp_path: Path):
    directory = write_adapter()
    (directory / "chat_template.jinja").write_text("ab")
    (tmp_path / "elsewhere.json").write_text("{}")
    (directory / "tokenizer_config.json").symlink_to(tmp_path / "elsewhere.json")
    async with staging.open() as staged:
        await DirectorySource(directory, [directory]).fetch(staged)
        assert staged.tokenizer_files == {"chat_template.jinja": b"ab"}
        assert staged.notes() == []


@pytest.mark.parametrize("url", ["s3://mine-too/a", "s3://other/mine", "gs://mine"])
async def test_a_bucket_that_is_not_allowed_is_forbidden(staging: Staging, url: str):
    async with staging.open() as staged:
        with pytest.raises(SourceForbidden, match="--source-bucket URL"):
            await BucketSource(url, ["s3://mine"]).fetch(staged)


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "s3://..", "s3:// "])
def test_a_bucket_has_a_name(url: str):
    with pytest.raises(SourceForbidden, match="with a bucket and a prefix") as refused:
        parse_source(url, SourceRules())
    assert refused.value.param == "source"


NOT_PLAIN = [
    "%2e%2e/secret",
    ".%2e/secret",
    "%2E./secret",
    "a%2f..%2fsecret",
    "../secret",
    "a/../../secret",
    "a/..",
    "./a",
    ".",
    "..\\secret",
    "a//b",
    "a//",
    "/a",
    "a?b",
    "a#b",
    ".\t./secret",
    ".\n./secret",
    "a b",
    " ",
    "a\0b",
]
"""What the object store would read as another path than it is written, or not at all."""


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
@pytest.mark.parametrize("path", NOT_PLAIN)
def test_a_bucket_url_that_the_store_would_rewrite_is_forbidden_as_source_and_as_rule(scheme: str, path: str):
    prefix = f"{scheme}://bucket/adapters"
    with pytest.raises(SourceForbidden, match="no plain bucket URL"):
        parse_source(f"{prefix}/{path}", SourceRules(buckets=(prefix,)))
    with pytest.raises(SourceForbidden, match="no plain bucket URL"):
        SourceRules(buckets=(f"{prefix}/{path}",))


@pytest.mark.parametrize(
    "path", ["adapters", "adapters/", "adapters/sql-7/v1.2_x", "a..b/...", "~a:b@c+d=e,f;(g)!*'&$/é"]
)
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_the_object_store_reads_a_plain_bucket_url_as_it_is_written(scheme: str, path: str):
    store = open_store(plain_bucket_url(f"{scheme}://bucket/{path}"), BUCKET_SCHEMES, SourceForbidden)
    assert isinstance(store, S3Store | GCSStore)
    assert store.prefix == path.rstrip("/")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("hf://org/repo", HubSource),
        ("hf://org/repo@refs/pr/1", HubSource),
        ("file:///srv/adapters/my%20one", DirectorySource),
        ("s3://bucket/prefix", BucketSource),
        ("gs://bucket", BucketSource),
        ("gs://bucket/", BucketSource),
    ],
)
def test_addresses_of_sources(text: str, kind: type[Source]):
    assert isinstance(parse_source(text, SourceRules()), kind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "org/repo",
        "http://169.254.169.254/latest",
        "hf://repo",
        "hf://org/../repo",
        "hf://org/repo@",
        "hf://org/repo//file",
        "hf://org/repo@a b",
        "file://host/dir",
        "file:relative",
        "file:///a%00b",
        "ftp://host/dir",
    ],
)
def test_other_texts_are_answered_with_what_is_supported(text: str):
    with pytest.raises(SourceForbidden, match=r"hf://org/repo\[/folder\]\[@revision\]") as refused:
        parse_source(text, SourceRules())
    assert refused.value.param == "source"


async def test_an_address_keeps_to_the_rules(write_adapter: WriteAdapter, allowed: Path, staging: Staging):
    address = write_adapter().as_uri()
    async with staging.open() as staged:
        with pytest.raises(SourceForbidden):
            await parse_source(address, SourceRules()).fetch(staged)
        await parse_source(address, SourceRules(directories=(allowed,))).fetch(staged)
        assert {path.name for path in staged.path.iterdir()} == set(FILES)
