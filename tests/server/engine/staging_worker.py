"""A worker that stages as on a GPU, but in the host's memory and nothing but zeros: what was read from where shows."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from server.engine.staging import Staged
from server.engine.worker_extension import Preparation, WorkerExtension


class Zeros:
    def stage(self, model: Any) -> Staged:
        staged = Staged(model, "cpu")
        staged.memory.zero_()
        return staged

    def release(self, staged: Staged) -> None:
        staged.memory.fill_(255)  # NaN, should anybody read it after this


class StagingWorker(WorkerExtension):
    @cached_property
    def _patchbay_preparation(self) -> Preparation:
        return Preparation(self.model_runner.lora_manager, self.device, Zeros())
