"""Inside a sandbox: calls the function of a source that may be hostile, a line of JSON for each call.

The sandbox holds this file, Python and its packages alone; so only the standard library is imported here. Before the
source runs, the process bounds itself and gives up all system calls but those that computing and importing take: no
sockets, no processes, no threads, no other program.

The first line has the bounds and is answered once they hold. Each further line has ``arguments``, the first of them
``source`` and ``function`` too; it is answered with ``number``, or with ``error``, the traceback as text.
"""

import ctypes
import errno
import json
import linecache
import math
import os
import platform
import resource
import sys
import traceback
from typing import Any, Final

_SHOWN_CHARACTERS: Final = 2000
_FILE: Final = "<source>"
_MAX_FILES: Final = 64
_LOG_BYTES: Final = 64 << 10

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EACCES
_KILL: Final = 0x80000000

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CALLS: Final = {
    # name: (x86_64, aarch64); None: the architecture has no such call
    "read": (0, 63),
    "write": (1, 64),
    "open": (2, None),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "poll": (7, None),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, None),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup": (32, 23),
    "nanosleep": (35, 101),
    "getitimer": (36, 102),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "exit": (60, 93),
    "uname": (63, 160),
    "fcntl": (72, 25),
    "ftruncate": (77, 46),
    "getdents": (78, None),
    "getcwd": (79, 17),
    "readlink": (89, None),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "time": (201, None),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "getdents64": (217, 61),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "tgkill": (234, 131),
    "openat": (257, 56),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "ppoll": (271, 73),
    "prlimit64": (302, 261),
    "getrandom": (318, 278),
    "statx": (332, 291),
    "rseq": (334, 293),
    "faccessat2": (439, 439),
}


class _Instruction(ctypes.Structure):
    """One instruction of the kernel's packet filter (``struct sock_filter``)."""

    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    """A filter of system calls (``struct sock_fprog``)."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def _filter() -> list[tuple[int, int, int, int]]:
    """Return the instructions that let the calls of the table pass, and have all others fail as not permitted."""
    column = list(_ARCHITECTURES).index(platform.machine())
    numbers = [call[column] for call in _CALLS.values() if call[column] is not None]
    load, jump, give = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
    return [
        (load, 0, 0, 4),  # seccomp_data.arch
        (jump, 1, 0, _ARCHITECTURES[platform.machine()]),
        (give, 0, 0, _KILL),
        (load, 0, 0, 0),  # seccomp_data.nr
        *((jump, len(numbers) - place, 0, number or 0) for place, number in enumerate(numbers)),
        (give, 0, 0, _REFUSE),
        (give, 0, 0, _ALLOW),
    ]


def confine(memory_bytes: int, cpu_s: int) -> None:
    """Bound this process and all that it will run, for good. ``cpu_s``: in all, beside the bounds of each call.

    Raises:
        OSError: the kernel does not filter system calls.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    bounds = {"AS": memory_bytes, "CPU": cpu_s, "FSIZE": _LOG_BYTES, "NOFILE": _MAX_FILES, "CORE": 0, "NPROC": 1}
    for name, bound in bounds.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (bound, bound))
    instructions = [_Instruction(*each) for each in _filter()]
    program = _Program(len(instructions), (_Instruction * len(instructions))(*instructions))
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _load(source: str, function: str) -> Any:
    namespace: dict[str, Any] = {"__name__": "source", "__file__": _FILE}
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)  # for tracebacks
    exec(compile(source, _FILE, "exec", dont_inherit=True), namespace)  # noqa: S102 - what this process is for
    if not callable(namespace.get(function)):
        raise TypeError(f"the source defines no function {function!r}")
    return namespace[function]


def _number(value: Any) -> float:
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"it returned {type(value).__name__:.80}, and should return a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"it returned {number}, and should return a finite number")
    return number


def _shown(error: BaseException) -> str:
    """Return the traceback of ``error`` as far as it lies in the source."""
    try:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != _FILE:
            trace = trace.tb_next
        shown = "".join(traceback.format_exception(type(error), error, trace, limit=-8))
        return shown.encode(errors="replace").decode()[-_SHOWN_CHARACTERS:].strip()
    except BaseException:  # noqa: BLE001 - of an exception that cannot be shown
        return "an error that cannot be shown"


def main() -> None:
    """Confine this process, then answer calls until stdin ends. What the source prints is dropped."""
    calls, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path += sys.argv[1:]
    sys.stdout = sys.stderr = _Nowhere()
    confine(**json.loads(calls.readline()))
    print("{}", file=answers, flush=True)
    function: Any = None
    for line in calls:
        try:
            call = json.loads(line)
            if "source" in call:
                function = _load(call["source"], call["function"])
            answer: dict[str, Any] = {"number": _number(function(*call["arguments"]))}
        except BaseException as error:  # noqa: BLE001 - SystemExit too
            answer = {"error": _shown(error)}
        print(json.dumps(answer), file=answers, flush=True)


class _Nowhere:
    """A text stream that drops what is written."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


if __name__ == "__main__":
    main()
