"""In vLLM's workers: a thread reads, parses, casts, packs and scales an adapter beside the steps of the model.

vLLM does all of this between two steps, while every stream waits. An adapter that is prepared here is handed to vLLM
when it loads the adapter, so that only the copy into a slot is left, on a GPU from its own memory. vLLM mixes the class
into its worker (``--worker-extension-cls``); its methods are called over vLLM's own RPC.

The thread changes nothing that a step reads: the list of modules is fixed once the model is loaded, and its own results
are published when they are complete. It computes with one OpenMP thread, off the model's CPUs.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

from server.engine.vllm import patches
from server.engine.vllm.device_copies import DeviceCopies, SideStream, copier_for

if TYPE_CHECKING:
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.request import LoRARequest
    from vllm.lora.worker_manager import WorkerLoRAManager

NICE = 10
"""A step of the model is more urgent than a load."""
MAX_REASON_BYTES = 4000
"""A datagram is limited."""


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
        modules = self.model_runner.lora_manager._adapter_manager.modules.values()
        stacks = {id(stack): stack for module in modules for stack in _stacks(module)}
        return sum(stack.numel() * stack.element_size() for stack in stacks.values())

    def drop_prepared_adapter(self, number: int) -> None:
        """Forget an adapter that was prepared and is not going to be loaded."""
        self._patchbay_adapters.drop(number)


def _stacks(module: Any) -> list[Any]:
    """Return the tensors with the weights of all slots of one layer: one or several for each factor."""
    factors = [getattr(module, name, ()) for name in ("lora_a_stacked", "lora_b_stacked")]
    return [stack for factor in factors for stack in (factor if isinstance(factor, tuple | list) else (factor,))]


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
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
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
