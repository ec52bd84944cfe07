"""Starts vLLM engines. The first call imports vLLM, which takes seconds; an import of this module does not.

Blocking calls run in a thread, so that control routes answer while an engine starts.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.base_model import BaseModel
from adapters.errors import BaseModelUnreadable
from server.engine.protocol import EngineHooks, EngineInfo, StartRefused
from server.engine.vllm import environment, patches
from server.engine.vllm.flags import parse_flags, renderer_options
from server.engine.vllm.lora_support import unsupported_architecture
from server.engine.vllm.parsers import check_parsers, choose_parsers

if TYPE_CHECKING:
    from server.engine.vllm.engine import VllmEngine

SHUTDOWN_S = 5.0
STATISTICS_INTERVAL_S = 10.0


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
    _info: EngineInfo | None = field(default=None, init=False)
    _args: Namespace = field(default_factory=Namespace, init=False)

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
            names = tuple(args.served_model_name or [self.model])
            base, directory = _read_base(args, names[0])
            renderer = renderer_options(args)
            choose_parsers(args, directory)
            check_parsers(args)
        return EngineInfo(base, names, args.max_lora_rank, directory, renderer)

    @asynccontextmanager
    async def start(self, hooks: EngineHooks) -> AsyncIterator[VllmEngine]:
        info = await self.info()
        try:
            client = await self._build_client()
        except Exception as failed:
            if (reason := await asyncio.to_thread(unsupported_architecture, self._args)) is not None:
                raise StartRefused(reason) from failed
            raise
        statistics = asyncio.create_task(_log_statistics(client), name="vllm-statistics")
        try:
            from server.engine.vllm.engine import open_engine

            yield await open_engine(client, self._args, hooks, info.base.modules)
        finally:
            statistics.cancel()
            await asyncio.to_thread(client.shutdown, SHUTDOWN_S)

    async def _build_client(self) -> Any:
        """Build vLLM's client in a thread; when cancelled, end the processes that the thread waits for."""

        def build() -> Any:
            with no_collections():
                from server.engine.vllm.engine import build_client

            return build_client(self._args)

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
    while True:
        await asyncio.sleep(STATISTICS_INTERVAL_S)
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

            files = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
            directory = Path(snapshot_download(args.model, revision=args.revision, allow_patterns=files))
        if args.load_format != "dummy":
            with suppress(BaseModelUnreadable):  # quantised, or not in safetensors
                return BaseModel.from_directory(directory, name), directory
        return _from_architecture(directory, name), directory
    except (OSError, ValueError, BaseModelUnreadable) as why:
        raise StartRefused(f"base model {args.model!r} cannot be read: {why}") from why


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
