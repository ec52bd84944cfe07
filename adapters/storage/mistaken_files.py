"""Recognizes what lies under the name of a file although it is another file, by its first bytes."""

import codecs
from typing import Final

START_BYTES: Final = 512
"""As many bytes of a file tell its kind."""

_AGAIN: Final = "download it again"
_SHOWN: Final = 60
_PICKLED: Final = "save with safe_serialization=True; a new name does not change what a file holds"
_TEXTS: Final = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file", "run `git lfs pull` where it lies"),
    (b"<", "an HTML or XML page", f"{_AGAIN}, with a token where it asks for one"),
)
_ARCHIVES: Final = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x04\x22\x4d\x18", "an lz4 archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
)
_TAR: Final = (257, b"ustar")
"""Where a tar archive says what it is: in the header of its first file."""
_TORCH_FILES: Final = (b"data.pkl", b".format_version")
"""The first file in a zip archive that torch.save wrote."""
PICKLES: Final = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
"""How pickles of the protocols 2 to 5 begin."""
_MAGICS: Final = (
    *(
        (mark, "UTF-16 text", "save text as UTF-8, and copy other files byte by byte")
        for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    ),
    (b"GGUF", "a GGUF file", "send the adapter as PEFT saved it, before it was converted"),
    (b"\x89HDF", "an HDF5 file", "send the adapter as PEFT saved it"),
    *((beginning, "a pickle", _PICKLED) for beginning in PICKLES),
)


def mistaken_download(start: bytes) -> tuple[str, str] | None:
    """Return the kind of a download that failed, by its ``start``, and the way out; None for any other file."""
    if start and not start.strip(b"\0"):
        return "a file of zeros", f"{_AGAIN}; the first download reserved space and broke off"
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    return next(((found, needed) for beginning, found, needed in _TEXTS if text.startswith(beginning)), None)


def mistaken_file(start: bytes) -> tuple[str, str] | None:
    """Return the kind of a file that begins with ``start``, and the way out; None for any other kind.

    What may be a safetensors file is none of them: the length of its header, below 2**32, and then a JSON object.
    """
    if start[4:9] == b"\0\0\0\0{":
        return None
    if start.startswith(b"PK\x03\x04") and any(name in start for name in _TORCH_FILES):
        return "a zip archive of torch.save", _PICKLED
    if (archive := archive_kind(start)) is not None:
        return archive, "unpack it"
    for beginning, found, needed in _MAGICS:
        if start.startswith(beginning):
            return found, needed
    if (mistaken := mistaken_download(start)) is not None:
        return mistaken
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if text[:1] in (b"{", b"["):
        return "JSON text, such as a server's error message", _AGAIN
    if (line := _first_line(text)) is not None:
        return f"text that begins {line!a}", f"{_AGAIN}; this may be what a server answered in its place"
    return None


def archive_kind(start: bytes) -> str | None:
    """Return the kind of archive that begins with ``start``, such as "a zip archive"; None for other files."""
    position, tar = _TAR
    if start.startswith(tar, position):
        return "a tar archive"
    return next((kind for magic, kind in _ARCHIVES if start.startswith(magic)), None)


def _first_line(text: bytes) -> str | None:
    """Return the beginning of the first line of ``text``; None if these are no characters for people."""
    read = codecs.getincrementaldecoder("utf-8")()  # the last character may be cut
    try:
        lines = read.decode(text).splitlines()
    except UnicodeDecodeError:
        return None
    return lines[0][:_SHOWN] if lines and all(line.replace("\t", " ").isprintable() for line in lines) else None
