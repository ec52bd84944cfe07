"""In vLLM's workers: an adapter is read, parsed, cast, packed, scaled in a thread, beside the steps of the model.

vLLM does all of it between two steps, and everybody's next token waits. What is prepared here is handed to vLLM when it
loads the adapter, so that only the copy into a slot is left to do there, on a GPU
from its own memory. Mixed into the worker by vLLM itself
(``--worker-extension-cls``); its methods are called over vLLM's own RPC.

The thread touches nothing that a step writes: it reads the list of modules, which is fixed once the model is loaded,
and what it makes nobody else knows until it is done. It computes alone (one thread of OpenMP), off the model's CPUs.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

from server.engine.vllm.device_copies import Copier, DeviceCopies, copier_to

if TYPE_CHECKING:
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.request import LoRARequest

NICE = 10
"""A step of the model is more urgent than a load."""
LONGEST_REASON = 4000
"""Bytes of a refusal; a datagram is limited."""


class WorkerExtension:
    """What is added to a worker. The names must be none of vLLM's own."""

    model_runner: Any
    device: Any

    @cached_property
    def _patchbay_preparation(self) -> Preparation:
        return Preparation(self.model_runner.lora_manager, self.device, copier_to(self.device))

    def prepare_adapter(self, name: str, number: int, path: str, reply: str) -> None:
        """Begin to prepare; returns at once. ``reply`` is the address of a datagram socket: empty, or why it failed."""
        from vllm.lora.request import LoRARequest

        request = LoRARequest(lora_name=name, lora_int_id=number, lora_path=path)
        self._patchbay_preparation.begin(request, reply)

    def slot_bytes(self) -> int:
        """Return the memory that this worker's slots take, all together."""
        modules = self.model_runner.lora_manager._adapter_manager.modules.values()
        stacks = {id(stack): stack for module in modules for stack in _stacks(module)}
        return sum(stack.numel() * stack.element_size() for stack in stacks.values())

    def drop_prepared_adapter(self, number: int) -> None:
        """Forget what was prepared and never loaded."""
        self._patchbay_preparation.drop(number)


def _stacks(module: Any) -> list[Any]:
    """Return the tensors that hold what is in the slots, of one layer: one or several a factor."""
    factors = [getattr(module, name, ()) for name in ("lora_a_stacked", "lora_b_stacked")]
    return [stack for factor in factors for stack in (factor if isinstance(factor, tuple | list) else (factor,))]


class Preparation:
    """Adapters that wait to be loaded, by their id; ``manager`` is vLLM's of one worker."""

    def __init__(self, manager: Any, device: Any, copier: Copier | None = None) -> None:
        slots = manager._adapter_manager
        self._copier = copier
        self._ready: dict[int, LoRAModel] = {}
        self._packed: set[int] = set()
        self._copies: dict[int, DeviceCopies] = {}
        self._read = manager._load_adapter
        self._pack = slots._create_merged_loras_inplace
        self._activate = slots.activate_adapter
        manager._load_adapter = self._ready_or_read
        slots._create_merged_loras_inplace = self._pack_once
        if copier is not None:
            slots.activate_adapter = self._activate_from_copies
        self._thread = ThreadPoolExecutor(1, "prepare", initializer=_be_modest, initargs=(device,))

    def begin(self, request: LoRARequest, reply: str) -> None:
        """Prepare ``request`` after those before it, and tell ``reply``."""
        self._thread.submit(self._prepare, request, reply)

    def drop(self, number: int) -> None:
        """Forget it; one that is being prepared is forgotten after."""
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
        except Exception as why:  # noqa: BLE001  whatever is wrong with the bytes: told to who asked, the worker goes on
            reason = str(why) or type(why).__name__
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.sendto(reason.encode()[-LONGEST_REASON:], reply)

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


def _be_modest(device: Any) -> None:
    """Keep this thread off the model's CPUs, out of its way, and alone."""
    import torch
    from vllm.platforms import current_platform

    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    if not current_platform.is_cpu():
        current_platform.set_device(device)  # a thread does not inherit it, and pinned memory belongs to a device
        return
    if sys.platform == "linux":
        ours, all_of_them = os.sched_getaffinity(0), os.sched_getaffinity(os.getppid())
        os.sched_setaffinity(0, (all_of_them - ours) or ours)
    torch._C.set_num_threads(1)  # vLLM disabled torch's own name for it; counts for this thread
