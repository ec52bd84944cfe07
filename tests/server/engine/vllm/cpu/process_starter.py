"""Starts one process as vLLM would start its engine or a worker, and tells what became of it. Run by a test."""

from __future__ import annotations

import json
import multiprocessing.forkserver as library
import os
import signal
import sys
from typing import Any

from server.engine.vllm.cpu import fork_server


def tell() -> None:
    told = {"parent": os.getppid(), "late": os.environ["LATE"], "cpus": sorted(os.sched_getaffinity(0))}
    print(json.dumps(told), flush=True)


def main(kind: str, circumstance: str) -> None:
    library.ensure_running()
    server: Any = library._forkserver
    template = fork_server.Template.of_this_process()
    os.environ["LATE"] = "set after the fork server was started"
    if circumstance == "bound otherwise":
        os.environ["OMP_NUM_THREADS"] = "7"
    if circumstance == "without a fork server":
        os.kill(server._forkserver_pid, signal.SIGKILL)
        os.waitpid(server._forkserver_pid, 0)
    fork_server.keep()
    context = fork_server.EngineContext() if kind == "engine" else fork_server.WorkerContext(template)
    process = context.Process(target=tell)
    process.start()
    process.join()
    print(json.dumps({"exit": process.exitcode, "self": os.getpid(), "server": server._forkserver_pid}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
