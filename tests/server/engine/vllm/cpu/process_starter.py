"""Starts one process as vLLM starts its engine core or a worker, and prints what became of it. Run by a test."""

from __future__ import annotations

import json
import multiprocessing.forkserver as library
import os
import signal
import sys
from typing import Any

from server.engine.vllm.cpu import fork_server


def report() -> None:
    state = {"parent": os.getppid(), "late": os.environ["LATE"], "cpus": sorted(os.sched_getaffinity(0))}
    print(json.dumps(state), flush=True)


def main(kind: str, circumstance: str) -> None:
    library.ensure_running()
    server: Any = library._forkserver
    binding = fork_server.OpenMPBinding.of_this_process()
    os.environ["LATE"] = "set after the fork server was started"
    if circumstance == "bound otherwise":
        os.environ["OMP_NUM_THREADS"] = "7"
    if circumstance == "without a fork server":
        os.kill(server._forkserver_pid, signal.SIGKILL)
        os.waitpid(server._forkserver_pid, 0)
    fork_server.never_restart()
    context = fork_server.VllmContext(binding if kind == "worker" else None)
    process = context.Process(target=report)
    process.start()
    process.join()
    print(json.dumps({"exit": process.exitcode, "self": os.getpid(), "server": server._forkserver_pid}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
