"""Hostile sources in a sandbox: each ends in an error of its own, and touches nothing outside.

Each test runs with bubblewrap and with user namespaces, where they work on this machine.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from adapters.errors import WorkerProcessDied
from adapters.processes import sandbox as sandboxes
from adapters.processes.limits import LimitExceeded
from adapters.processes.sandbox import NoSandbox, Sandbox, SandboxedFunction, SourceFailed
from tests.until import until

MEMORY = 256 << 20
AMPLE_S = 60.0

Call = Callable[..., Awaitable[float]]
"""Takes the body of ``f``, its arguments, and the seconds that it may take."""


@pytest.fixture(params=["bubblewrap", "namespaces"], scope="session")
async def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    found: Sandbox = getattr(Sandbox, request.param)()
    if (fault := await found.fault()) is not None:
        pytest.skip(f"no sandbox by {found.launcher} on this machine: {fault}")
    return found


@pytest.fixture
async def start(sandbox: Sandbox) -> AsyncIterator[Callable[[str], Awaitable[SandboxedFunction]]]:
    """Starts a process with the body of a function ``f(*a)``."""
    started: list[SandboxedFunction] = []

    async def started_with(body: str) -> SandboxedFunction:
        source = f"def f(*a):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n    return 7\n"
        started.append(await SandboxedFunction.start(sandbox, source, "f", memory_bytes=MEMORY))
        return started[-1]

    yield started_with
    for each in started:
        await each.aclose()


@pytest.fixture
def call(start: Callable[[str], Awaitable[SandboxedFunction]]) -> Call:
    async def called(body: str, *arguments: Any, within_s: float = AMPLE_S) -> float:
        return await (await start(body)).call(arguments, within_s=within_s)

    return called


async def test_a_source_computes_with_its_arguments(call: Call) -> None:
    assert await call("import json, math, re, statistics; return a[0]['x'] + len(a[1])", {"x": 1}, "ab") == 3


async def test_a_source_can_use_the_packages_of_this_python(call: Call) -> None:
    assert await call("from rapidfuzz import fuzz; return fuzz.ratio('ab', 'ab')") == 100
    assert await call("import numpy; return numpy.float32(0.5) * numpy.ones((2, 2)).dot(numpy.ones(2))[0]") == 1


async def test_one_process_answers_many_calls(start: Callable[[str], Awaitable[SandboxedFunction]]) -> None:
    process = await start("return a[0]")
    assert [await process.call([n], within_s=AMPLE_S) for n in range(50)] == [*range(50)]
    assert process.is_running


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class Odd(BaseException):\n    def __str__(self): raise self\nraise Odd", "Odd"),
        ("return float('nan')", "finite"),
        ("return float('inf')", "finite"),
        ("return 10 ** 400", "OverflowError"),
        ("return '1.0'", "str"),
        ("return None", "NoneType"),
        ("return [0.5] * 1_000_000", "list"),
        ("return {'score': 1}", "dict"),
        ("def g(): return g()\nreturn g()", "RecursionError"),
        ("return missing", "NameError"),
        ("import torch_of_another_world", "ModuleNotFoundError"),
    ],
)
async def test_an_error_of_the_source_is_told_with_its_place(call: Call, body: str, reason: str) -> None:
    with pytest.raises(SourceFailed, match=reason):
        await call(body)


@pytest.mark.parametrize("source", ["def f(:", "x = 1", "f = 3", "def g(): pass", "\0"])
async def test_a_source_without_the_function_is_an_error(sandbox: Sandbox, source: str) -> None:
    process = await SandboxedFunction.start(sandbox, source, "f", memory_bytes=MEMORY)
    with pytest.raises(SourceFailed):
        await process.call([], within_s=AMPLE_S)
    assert not process.is_running or await process.aclose() is None


@pytest.mark.parametrize(
    "body",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['/bin/sh', '-c', 'true'])",
        "import os; os.execv(__import__('sys').executable, ['python'])",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import threading; threading.Thread(target=print).start()",
        "import multiprocessing; multiprocessing.Process(target=print).start()",
    ],
)
async def test_a_source_starts_no_process_and_no_thread(call: Call, body: str) -> None:
    with pytest.raises(SourceFailed, match=r"PermissionError|NotFoundError|new thread|_multiprocessing"):
        await call(body)


async def test_a_daemon_is_not_left_behind(call: Call) -> None:
    body = "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass"
    with pytest.raises(SourceFailed, match="PermissionError"):
        await call(body)
    await until(lambda: not [child for child in psutil.Process().children(recursive=True) if is_sandbox(child)])


def is_sandbox(process: psutil.Process) -> bool:
    try:
        return any("confined_function" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    "body", ["while True: pass", "import time; time.sleep(1000)", "import re; re.match('(a+)+b', 'a' * 99)"]
)
async def test_a_source_that_does_not_end_is_ended(
    start: Callable[[str], Awaitable[SandboxedFunction]], body: str
) -> None:
    process = await start(body)
    inside = psutil.Process(process.process.process_id).children(recursive=True)
    with pytest.raises(LimitExceeded):
        await process.call([], within_s=0.3)
    assert not process.is_running
    await until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in inside))


async def test_signals_that_are_ignored_do_not_keep_a_source_alive(call: Call) -> None:
    body = "import signal\nfor n in (2, 15, 14): signal.signal(n, signal.SIG_IGN)\nwhile True: pass"
    with pytest.raises(LimitExceeded):
        await call(body, within_s=0.5)


@pytest.mark.parametrize(
    "body",
    [
        "x = bytearray(1 << 40)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "x = 'a'\nwhile True: x += x",
        "import mmap; kept = []\nwhile True: kept.append(mmap.mmap(-1, 1 << 24))",
        "import os; os.memfd_create('x')",
        "import ctypes\nif ctypes.CDLL(None).shmget(0, 1 << 30, 0o1600) < 0: raise MemoryError",
    ],
)
async def test_memory_is_bounded(call: Call, body: str) -> None:
    with pytest.raises((SourceFailed, WorkerProcessDied), match=r"MemoryError|PermissionError|allocate|ended"):
        await call(body)


async def test_there_is_no_network(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        for address in (server.getsockname(), ("1.1.1.1", 80), ("169.254.169.254", 80)):
            with pytest.raises(SourceFailed, match="PermissionError"):
                await call("import socket; socket.create_connection(tuple(a[0]), timeout=5)", address)
        with pytest.raises(SourceFailed):
            await call("import urllib.request; urllib.request.urlopen('http://localhost/')")
        with pytest.raises(SourceFailed, match="PermissionError"):
            await call("import socket; socket.socketpair()")
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/1/environ", "/dev/sda", "/sys/kernel", "/root/.ssh"],
)
async def test_files_of_the_machine_are_not_there(call: Call, path: str) -> None:
    with pytest.raises(SourceFailed, match=r"FileNotFoundError|PermissionError"):
        await call("return len(open(a[0], 'rb').read())", path)


async def test_files_of_the_server_are_not_there(call: Call, tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_text("secret")
    for path in (tmp_path / "registry.db", tmp_path, Path(__file__), Path.cwd() / "pyproject.toml"):
        assert await call("import os; return os.path.exists(a[0])", str(path)) == 0
    assert await call("import os; return {*os.listdir('/etc')} <= {'ld.so.cache'}") == 1


@pytest.mark.parametrize("path", ["/x", "/tmp/x", "/usr/lib/x", "x", "/dev/shm/x"])
async def test_nothing_is_written(call: Call, path: str) -> None:
    with pytest.raises(SourceFailed, match=r"Read-only|No such file|Permission"):
        await call("open(a[0], 'w').write('x')", path)


async def test_pythons_own_files_cannot_be_changed(call: Call) -> None:
    with pytest.raises(SourceFailed, match=r"Read-only|Permission"):
        await call("open(__import__('json').__file__, 'a').write('x')")
    with pytest.raises(SourceFailed, match="Permission"):
        await call("import os; os.unlink(__import__('json').__file__)")


async def test_nothing_of_the_environment_is_seen(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHBAY_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    kept = [
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "LD_LIBRARY_PATH",
        "LC_CTYPE",
        "PWD",
    ]
    with pytest.raises(SourceFailed, match=r"Exception: \[\]"):
        await call("import os; raise Exception(sorted(os.environ.keys() - {*a[0]}))", kept)


async def test_other_processes_are_out_of_sight(call: Call) -> None:
    assert await call("import os; return os.getppid()") <= 1
    with pytest.raises(SourceFailed, match=r"PermissionError|ProcessLookupError"):
        await call("import os; os.kill(a[0], 9)", os.getpid())
    with pytest.raises(SourceFailed, match="traced nothing"):
        await call(
            "import ctypes\nif ctypes.CDLL(None).ptrace(16, a[0], 0, 0) < 0: raise Exception('traced nothing')",
            os.getpid(),
        )


@pytest.mark.parametrize(
    "call_", ["mount(b'x', b'/', b'tmpfs', 0, 0)", "unshare(0x10000000)", "chroot(b'/')", "setuid(0)"]
)
async def test_privileges_cannot_be_regained(call: Call, call_: str) -> None:
    with pytest.raises(SourceFailed, match="refused"):
        await call(f"import ctypes\nif ctypes.CDLL(None).{call_} < 0: raise Exception('refused')")


async def test_printing_megabytes_harms_nothing(call: Call) -> None:
    assert await call("print('x' * (8 << 20)); __import__('sys').stderr.write('y' * (8 << 20))") == 7
    with pytest.raises(SourceFailed, match="File too large"):
        await call("import os\nwhile True: os.write(1, b'x' * 65536)")


async def test_writing_over_the_answers_ends_the_process(call: Call) -> None:
    for text in (
        "'x' * (1 << 20)",
        "'{}\\n'",
        "'[' * 60000 + '\\n'",
        "'{\"number\": NaN}\\n'",
        "'{\"number\": []}\\n'",
    ):
        body = f"import os\nfor fd in range(3, 10):\n    try: os.write(fd, ({text}).encode())\n    except OSError: pass"
        with pytest.raises((WorkerProcessDied, LimitExceeded)):
            await call(body)


async def test_a_source_that_goes_on_after_its_answer_is_ended(sandbox: Sandbox) -> None:
    source = "import os\ndef f():\n    for fd in range(3, 8):\n        try: os.write(fd, b'{\"number\": 1}\\n')\n"
    source += "        except OSError: pass\n    while True: pass"
    process = await SandboxedFunction.start(sandbox, source, "f", memory_bytes=MEMORY, cpu_s=1)
    assert await process.call([], within_s=AMPLE_S) == 1
    await until(lambda: not process.is_running)
    await process.aclose()


@pytest.mark.parametrize(
    "body",
    [
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os; os.abort()",
        "import ctypes; ctypes.string_at(0)",
    ],
)
async def test_a_process_that_dies_is_an_error(call: Call, body: str) -> None:
    with pytest.raises((WorkerProcessDied, SourceFailed)):
        await call(body)


async def test_a_process_that_closes_its_output_is_ended(call: Call) -> None:
    with pytest.raises((WorkerProcessDied, LimitExceeded)):
        await call("import os; os.closerange(0, 64); __import__('time').sleep(1000)", within_s=1)


async def test_a_process_ends_with_a_caller_who_leaves(
    start: Callable[[str], Awaitable[SandboxedFunction]],
) -> None:
    process = await start("while True: pass")
    calling = asyncio.create_task(process.call([], within_s=AMPLE_S))
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await until(lambda: not process.is_running)


async def test_a_process_dies_with_a_server_that_is_killed(sandbox: Sandbox) -> None:
    code = f"""
        import asyncio
        from adapters.processes.sandbox import Sandbox, SandboxedFunction
        async def serve():
            sandbox = Sandbox({sandbox.launcher!r}, {[*sandbox.command]!r})
            process = await SandboxedFunction.start(sandbox, "def f():\\n while True: pass", "f", memory_bytes={MEMORY})
            print(process.process.process_id, flush=True)
            await process.call([], within_s=600)
        asyncio.run(serve())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    launcher = psutil.Process(int(await server.stdout.readline()))
    family = [launcher, *launcher.children(recursive=True)]
    assert len(family) > 1
    server.kill()
    await server.wait()
    await until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family))


async def test_a_machine_without_a_sandbox_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(NoSandbox, match=r"bwrap is not installed; unshare is not installed.*install bubblewrap"):
        await Sandbox.find()


async def test_a_launcher_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxes, "_unshare_command", lambda: ["/bin/sh", "-c", "echo forbidden >&2; exit 1"])
    assert "forbidden" in str(await Sandbox.namespaces().fault())
