"""Starts vLLM engines. The first call imports vLLM, which takes seconds; an import of this module does not.

Blocking calls run in a thread, so that control routes answer while an engine starts.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from adapters.base_model import BaseModel
from adapters.errors import BaseModelUnreadable
from server.engine.protocol import EngineHooks, EngineInfo, StartFailed, StartRefused
from server.engine.vllm import environment, patches
from server.engine.vllm.flags import parse_flags, renderer_options
from server.engine.vllm.lora_support import unsupported_architecture
from server.engine.vllm.memory import BaseSizes, choose_sizes
from server.engine.vllm.parsers import check_parsers, choose_parsers
from server.engine.vllm.process_logs import ProcessLogs, one_line
from server.engine.vllm.start_failure import explain, will_repeat

if TYPE_CHECKING:
    from server.engine.vllm.engine import VllmEngine

log = structlog.get_logger(__name__)

SHUTDOWN_S = 5.0


@dataclass
class VllmBuilder:
    """Starts vLLM engines."""

    model: str
    """Directory or hub id of the base model."""
    flags: Sequence[str]
    """vLLM's flags as typed on the command line."""
    _: KW_ONLY
    capacity: int
    """Limit on the residents at once."""
    logs: ProcessLogs | None = None
    """Where vLLM's processes leave the cause of a failure; None: it is not looked for."""
    _info: EngineInfo | None = field(default=None, init=False)
    _args: Namespace = field(default_factory=Namespace, init=False)
    _base_sizes: BaseSizes | None = field(default=None, init=False)
    _is_sized: bool = field(default=False, init=False)
    """Whether ``_args`` has sizes that an engine may be started with; one that failed may need smaller ones."""
    _has_started: bool = field(default=False, init=False)

    async def info(self) -> EngineInfo:
        if self._info is None:
            self._info = await asyncio.to_thread(self._read_info)
        return self._info

    def _read_info(self) -> EngineInfo:
        if reasons := environment.refusals(environment.current()):
            raise StartRefused("; ".join(reasons))
        patches.prepare_import()
        with no_collections():
            args = self._args = parse_flags(self.model, self.flags, capacity=self.capacity)
            args.use_tqdm_on_load &= sys.stderr.isatty()
            names = tuple(args.served_model_name or [self.model])
            base, directory = _read_base(args, names[0])
            self._base_sizes = BaseSizes.of(base, directory)
            renderer = renderer_options(args)
            choose_parsers(args, directory)
            check_parsers(args)
        return EngineInfo(base, names, args.max_lora_rank, directory, renderer)

    @asynccontextmanager
    async def start(self, hooks: EngineHooks) -> AsyncIterator[VllmEngine]:
        info = await self.info()
        try:
            client = await self._build_client()
        except Exception as failed:  # whatever vLLM raises, an architecture without LoRA is the better reason
            if (reason := await asyncio.to_thread(unsupported_architecture, self._args)) is not None:
                raise StartRefused(reason) from failed
            raise
        statistics = asyncio.create_task(_log_statistics(client), name="vllm-statistics")
        try:
            from server.engine.vllm.engine import open_engine

            yield await open_engine(client, self._args, hooks, info.base.modules)
        finally:
            statistics.cancel()
            if client.errored and self.logs is not None and (failure := self.logs.first_failure()) is not None:
                log.error("vLLM failed", reason=failure.summary, process=failure.process, trace=str(self.logs.failures))
            await asyncio.to_thread(client.shutdown, SHUTDOWN_S)

    async def _build_client(self) -> Any:
        """Build vLLM's client in a thread; when cancelled, end the processes that the thread waits for."""

        def build() -> Any:
            with no_collections():
                from server.engine.vllm.engine import build_client

            if self.logs is not None:
                self.logs.forget()
            if not self._is_sized and self._base_sizes is not None:
                choose_sizes(self._args, self._base_sizes)
            try:
                client = build_client(self._args)
            except Exception as failed:  # whatever vLLM raises there, the engine has not started
                self._is_sized = False
                raise self._explained(failed) from failed
            self._is_sized = self._has_started = True
            return client

        building = asyncio.ensure_future(asyncio.to_thread(build))
        try:
            return await asyncio.shield(building)
        except asyncio.CancelledError:
            while not building.done():
                for process in multiprocessing.active_children():
                    process.terminate()
                await asyncio.wait([building], timeout=0.1)
            with suppress(Exception):  # it fails, since its processes ended; if not, it is shut down
                (await building).shutdown(SHUTDOWN_S)
            raise

    def _explained(self, failed: Exception) -> StartRefused | StartFailed:
        """Return the error of a failed start. The first start is not tried again for a reason that will stay."""
        failure = None if self.logs is None else self.logs.first_failure()
        if failure is None:
            refused = isinstance(failed, ValueError | TypeError | NotImplementedError | ImportError)
            return (StartRefused if refused else StartFailed)(explain(one_line(failed)))
        cause = f"{explain(failure.summary)} (traceback: {self.logs.failures if self.logs else None})"
        return StartRefused(cause) if will_repeat(failure) and not self._has_started else StartFailed(cause)


@contextmanager
def no_collections() -> Iterator[None]:
    """Disable garbage collection, which takes a sixth of an import; freeze what the block has imported."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


async def _log_statistics(client: Any) -> None:
    """Log vLLM's statistics, in place of the lifespan of vLLM's app, which does not run here."""
    from vllm import envs

    while True:
        await asyncio.sleep(envs.VLLM_LOG_STATS_INTERVAL)
        await client.do_log_stats()


def _read_base(args: Namespace, name: str) -> tuple[BaseModel, Path]:
    """Return the base model of vLLM's parsed ``args``, and its directory. A hub model is downloaded, as vLLM does.

    Its shapes come from its safetensors files where possible, else from the architecture in its config.

    Raises:
        StartRefused: the model does not exist, or cannot be read.
    """
    try:
        directory = Path(args.model)
        if not directory.is_dir():
            from huggingface_hub import snapshot_download

            log.info("fetching the base model from the hub, where it is not in the cache", name=args.model)
            files = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
            directory = Path(snapshot_download(args.model, revision=args.revision, allow_patterns=files))
        if args.load_format != "dummy":
            with suppress(BaseModelUnreadable):  # quantised, or not in safetensors
                return BaseModel.from_directory(directory, name), directory
        return _from_architecture(directory, name), directory
    except (OSError, ValueError, BaseModelUnreadable) as why:
        place = "cannot be read" if Path(args.model).is_dir() else "is no directory and cannot be read from the hub"
        raise StartRefused(f"base model {args.model!r} {place}: {one_line(why)}") from why


def _from_architecture(directory: Path, name: str) -> BaseModel:
    """Build the model without storage and list its linear modules."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    modules = {
        path: (module.out_features, module.in_features)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not (path == "lm_head" and config.tie_word_embeddings)
    }
    if not config.tie_word_embeddings:
        path, embedding = next((p, m) for p, m in model.named_modules() if m is model.get_input_embeddings())
        modules[path] = (embedding.embedding_dim, embedding.num_embeddings)
    # the file's text rather than transformers' config object: the fingerprint must be the same either way
    return BaseModel.from_shapes(name, json.loads((directory / "config.json").read_text()), modules)
