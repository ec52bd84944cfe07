"""A worker that copies as to a GPU, but zeros into the host's memory: scores show where a slot was written from."""

from __future__ import annotations

from functools import cached_property

from vllm.lora.lora_model import LoRAModel

from server.engine.vllm.device_copies import DeviceCopies
from server.engine.vllm.preparation import PreparedAdapters, WorkerExtension


class Zeros:
    def copy(self, model: LoRAModel) -> DeviceCopies:
        copies = DeviceCopies(model, "cpu")
        copies.memory.zero_()
        return copies

    def release(self, copies: DeviceCopies) -> None:
        copies.memory.fill_(255)  # NaN, if it is read after this


class CopyingWorker(WorkerExtension):
    @cached_property
    def _patchbay_adapters(self) -> PreparedAdapters:
        return PreparedAdapters(self.model_runner.lora_manager, self.device, Zeros())
