"""Run by unshare(1) in new namespaces: leaves the file system for one that holds some read-only paths, and no more.

Usage: ``python -I -S enter_sandbox.py PATH… -- COMMAND…``. The steps are bubblewrap's; mount_setattr(2) takes Linux
5.12. Only the standard library is imported: nothing else is on the path.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any, Final

_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC = 2, 4, 0x1000, 0x4000
_MNT_DETACH: Final = 2
_PR_CAPBSET_DROP: Final = 24
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_SYS_MOUNT_SETATTR: Final = 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_READ_ONLY: Final = 0x1 | 0x2 | 0x4  # MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV
_CAPABILITIES: Final = 64

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def _checked(status: int) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    _checked(_LIBC.mount(source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), None))


def _pivot_root(new: str, old: str) -> None:
    """Make ``new`` the root, and ``old`` in it the place of the earlier one."""
    _checked(_LIBC.syscall(_SYS_PIVOT_ROOT[os.uname().machine], new.encode(), old.encode()))


def _make_read_only(path: str) -> None:
    """Make ``path`` and what is mounted beneath it read-only."""
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY, 0, 0, 0)
    arguments: tuple[Any, ...] = (ctypes.c_int(_AT_FDCWD), path.encode(), _AT_RECURSIVE, ctypes.byref(attributes))
    _checked(_LIBC.syscall(_SYS_MOUNT_SETATTR, *arguments, ctypes.c_size_t(ctypes.sizeof(attributes))))


def enter(paths: list[str]) -> None:
    """Leave the file system for one of ``paths`` alone, and give up all capabilities at the next exec."""
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV)  # noqa: S108 - a place that every system has
    for name in ("/tmp/new", "/tmp/old"):  # noqa: S108
        Path(name).mkdir()
    _mount("/tmp/new", "/tmp/new", None, _MS_BIND)  # noqa: S108 - the root of a mount
    _pivot_root("/tmp", "/tmp/old")  # noqa: S108
    os.chdir("/")
    for path in paths:
        source, target = Path(f"/old{path}"), Path(f"/new{path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        _mount(str(source), str(target), None, _MS_BIND | _MS_REC)
    _make_read_only("/new")
    _checked(_LIBC.umount2(b"/old", _MNT_DETACH))
    os.chdir("/new")
    _pivot_root(".", ".")
    _checked(_LIBC.umount2(b".", _MNT_DETACH))
    os.chdir("/")
    for capability in range(_CAPABILITIES):
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


if __name__ == "__main__":
    separator = sys.argv.index("--")
    enter(sys.argv[1:separator])
    os.execv(sys.argv[separator + 1], sys.argv[separator + 1 :])  # noqa: S606 - no shell
