"""A worker that copies as to a GPU, but to the host's memory and nothing but zeros: what was read from where shows."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from server.engine.vllm.device_copies import DeviceCopies
from server.engine.vllm.worker_extension import Preparation, WorkerExtension


class Zeros:
    def copy(self, model: Any) -> DeviceCopies:
        copies = DeviceCopies(model, "cpu")
        copies.memory.zero_()
        return copies

    def release(self, copies: DeviceCopies) -> None:
        copies.memory.fill_(255)  # NaN, should anybody read it after this


class CopyingWorker(WorkerExtension):
    @cached_property
    def _patchbay_preparation(self) -> Preparation:
        return Preparation(self.model_runner.lora_manager, self.device, Zeros())
