"""Adapters are prepared beside the steps of the model: a thread of vLLM's worker reads, casts, packs and scales them.

vLLM does all of this between two steps, while every stream waits. An adapter that is prepared here is handed to vLLM
when it loads the adapter, so that only the copy into a slot is left, on a GPU from its own memory. vLLM mixes
``WorkerExtension`` into its worker (``--worker-extension-cls``). ``PreparationClient``, in the server's process, calls
its methods over vLLM's own RPC.

The thread changes nothing that a step reads: the list of modules is fixed once the model is loaded, and its own results
are published when they are complete. It computes with one OpenMP thread, off the model's CPUs.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, socket
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from vllm.v1.engine.exceptions import EngineDeadError

from server.engine.protocol import EngineGone, LoadFailed, Resident
from server.engine.vllm import lora_support, patches
from server.engine.vllm.device_copies import DeviceCopies, SideStream, copier_for

if TYPE_CHECKING:
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.request import LoRARequest
    from vllm.lora.worker_manager import WorkerLoRAManager
    from vllm.v1.engine.async_llm import AsyncLLM

NICE: Final = 10
"""A step of the model is more urgent than a load."""
MAX_REASON_BYTES: Final = 4000
"""A datagram is limited."""
POLL_S: Final = 0.2
"""How often the client is asked whether its engine is dead, while the workers prepare: a dead worker never replies."""


class PreparationClient:
    """Prepares adapters in the workers of ``client``."""

    def __init__(self, client: AsyncLLM) -> None:
        parallel = client.vllm_config.parallel_config
        self._client = client
        self._workers: int = parallel.world_size if parallel.nnodes == 1 else 0  # replies stay within a machine

    async def prepare(self, resident: Resident) -> None:
        """Read and pack ``resident`` in every worker, beside the steps of the engine.

        Raises:
            LoadFailed: a worker refused the files; the others must still ``drop`` the adapter.
            EngineGone: the engine died.
        """
        with TemporaryDirectory(prefix="patchbay-") as scratch, socket(AF_UNIX, SOCK_DGRAM) as receiver:
            receiver.setblocking(False)
            receiver.bind(reply := str(Path(scratch) / "prepared"))
            if self._workers:
                arguments = (resident.name, resident.id, str(resident.path), reply)
                await self._client.collective_rpc("prepare_adapter", args=arguments)
            for _ in range(self._workers):
                if reason := (await self._reply(receiver)).decode(errors="replace"):
                    raise LoadFailed(reason)

    async def drop(self, resident: Resident) -> None:
        """Let every worker forget a prepared adapter that is not going to be loaded."""
        with suppress(EngineDeadError):
            await self._client.collective_rpc("drop_prepared_adapter", args=(resident.id,))

    async def _reply(self, receiver: socket) -> bytes:
        # One call for all polls: a call that a timeout cancels may have taken the datagram already, and loses it.
        receiving = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(receiver, MAX_REASON_BYTES))
        try:
            while not self._client.errored:
                if (await asyncio.wait([receiving], timeout=POLL_S))[0]:
                    return receiving.result()
        finally:
            receiving.cancel()
        raise EngineGone("died while preparing an adapter")


class WorkerExtension:
    """Methods added to vLLM's worker. None of their names may be vLLM's own."""

    model_runner: Any
    device: Any

    @cached_property
    def _patchbay_adapters(self) -> PreparedAdapters:
        return PreparedAdapters(self.model_runner.lora_manager, self.device, copier_for(self.device))

    def prepare_adapter(self, name: str, number: int, path: str, reply: str) -> None:
        """Start to prepare an adapter. The thread sends the outcome to ``reply``, the address of a datagram socket.

        The datagram is empty after success, else the reason of the failure.
        """
        from vllm.lora.request import LoRARequest

        self._patchbay_adapters.prepare(LoRARequest(lora_name=name, lora_int_id=number, lora_path=path), reply)

    def slot_bytes(self) -> int:
        """Return the memory of all slots of this worker."""
        sizes = {}
        for module in self.model_runner.lora_manager._adapter_manager.modules.values():
            for name in ("lora_a_stacked", "lora_b_stacked"):  # one tensor for each factor, or several
                stacked = getattr(module, name, ())
                for stack in stacked if isinstance(stacked, tuple | list) else (stacked,):
                    sizes[id(stack)] = stack.nbytes
        return sum(sizes.values())

    def unserved_modules(self, names: list[str]) -> list[str]:
        """Return those of the base model's modules on which this worker's adapters have no effect."""
        return lora_support.unserved_modules(self.model_runner.lora_manager._adapter_manager, names)

    def drop_prepared_adapter(self, number: int) -> None:
        self._patchbay_adapters.drop(number)


class PreparedAdapters:
    """Adapters of one worker that are ready to be loaded, by id. ``manager`` loads them from here."""

    def __init__(self, manager: WorkerLoRAManager, device: Any, copier: SideStream | None = None) -> None:
        slots = manager._adapter_manager
        self._copier = copier
        self._ready: dict[int, LoRAModel] = {}
        self._packed: set[int] = set()
        self._copies: dict[int, DeviceCopies] = {}
        self._read = manager._load_adapter
        self._pack = slots._create_merged_loras_inplace
        self._activate = slots.activate_adapter
        activate = self._activate if copier is None else self._activate_from_copies
        patches.load_prepared_adapters(manager, self._ready_or_read, self._pack_once, activate)
        self._thread = ThreadPoolExecutor(1, "prepare", initializer=_lower_priority, initargs=(device,))

    def prepare(self, request: LoRARequest, reply: str) -> None:
        """Prepare the adapter of ``request`` after those before it, and send the outcome to ``reply``."""
        self._thread.submit(self._prepare, request, reply)

    def drop(self, number: int) -> None:
        """Forget the adapter, after its preparation if that is running."""
        self._thread.submit(self._drop, number)

    def _drop(self, number: int) -> None:
        self._ready.pop(number, None)
        self._packed.discard(number)
        self._copies.pop(number, None)

    def _prepare(self, request: LoRARequest, reply: str) -> None:
        reason = ""
        try:
            model = self._read(request)
            self._pack(model)
            self._packed.add(model.id)
            if self._copier is not None and (copies := self._copier.copy(model)) is not None:
                self._copies[model.id] = copies
            self._ready[model.id] = model
        except Exception as why:  # noqa: BLE001  the reason is reported, whatever it is, and the worker goes on
            reason = str(why) or type(why).__name__
        with socket(AF_UNIX, SOCK_DGRAM) as sender:
            sender.sendto(reason.encode()[-MAX_REASON_BYTES:], reply)

    def _ready_or_read(self, request: LoRARequest) -> LoRAModel:
        return self._ready.pop(request.lora_int_id, None) or self._read(request)

    def _pack_once(self, model: LoRAModel) -> None:
        if model.id in self._packed:
            self._packed.discard(model.id)
        else:
            self._pack(model)

    def _activate_from_copies(self, number: int) -> bool:
        copies = self._copies.pop(number, None)
        if copies is None or self._copier is None:
            return bool(self._activate(number))
        try:
            with copies.in_place():
                return bool(self._activate(number))
        finally:
            self._copier.release(copies)


def _lower_priority(device: Any) -> None:
    """Lower the priority of this thread, keep it off the model's CPUs, and limit it to one OpenMP thread."""
    import torch
    from vllm.platforms import current_platform

    if sys.platform == "linux":  # elsewhere a priority holds for the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    if not current_platform.is_cpu():
        current_platform.set_device(device)  # a thread does not inherit it, and pinned memory belongs to a device
        return
    if sys.platform == "linux":
        worker, parent = os.sched_getaffinity(0), os.sched_getaffinity(os.getppid())
        os.sched_setaffinity(0, (parent - worker) or worker)
    torch._C.set_num_threads(1)  # for this thread; vLLM has disabled torch.set_num_threads
