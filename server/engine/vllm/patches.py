"""The register of vLLM patches: every place where an attribute of vLLM, a class or an instance of it is replaced.

Each function is one patch. Its docstring says what it replaces and why, for which version, which issue upstream is
known, and how to see that it is obsolete: a new version of vLLM begins here. Implementations lie in files of
their own; a test refuses the assignment there. Instances are patched rather than modules where both are possible, so
that two engines in one process keep apart. No other module outside ``cpu/`` imports ``cpu/``.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from multiprocessing.connection import wait
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from server.engine.vllm import environment
from server.engine.vllm.engine_process import EngineContext

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI, Request, Response
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.lora.layers import BaseLayerWithLoRA
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.lora_weights import LoRALayerWeights
    from vllm.lora.request import LoRARequest
    from vllm.lora.worker_manager import WorkerLoRAManager
    from vllm.v1.engine.async_llm import AsyncLLM


Generate = Callable[..., AsyncGenerator[Any, None]]
RouteHandler = Callable[["Request"], Coroutine[Any, Any, "Response"]]

WATCHER: Final = "parent-watcher"
SLEEP_S: Final = 50e-6
"""Short beside a step, which takes 2 ms and more; the sleep ends within 0.1 ms."""


def prepare_import(logging_config: Path | None = None) -> None:
    """Prepare this process for its first import of vLLM: the environment, and on the CPU build the fork server."""
    environment.prepare(logging_config)
    from server.engine.vllm.cpu import fork_server

    fork_server.start()


def install() -> None:
    """Apply the patches of modules and classes. vLLM calls this in each of its processes (``vllm.general_plugins``)."""
    end_with_parent()
    limit_white_space()
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        fork_workers()
        sleep_while_idle()
        skip_rows_without_adapter()
        multiply_slots_densely()
        clear_cache_blocks()
        rewind_seeded_draws()


# -- the server's process ------------------------------------------------------------------------------------------


def resolve_models(
    models: OpenAIServingModels, adapters: Mapping[str, LoRARequest], resolve_lora: Callable[[str], Awaitable[Any]]
) -> None:
    """Replace the adapters of vLLM's model list, and how it resolves an unknown ``model``.

    Why: all serving classes share one list. They look ``model`` up in it, call ``resolve_lora`` if it is not there, and
    look it up a second time. An alias may move in between; the hooks resolve it once a request.
    vLLM: 0.32. Upstream: none known.
    Obsolete: vLLM resolves ``model`` once a request and keeps no adapter by the name that was asked for.
    """
    models.lora_requests = adapters
    models.resolve_lora = resolve_lora
    models.show_available_models = models.registry.show_available_models


def prepare_bodies(app: FastAPI, prepared: Callable[[RouteHandler], RouteHandler]) -> None:
    """Replace the handlers of the routes of vLLM's app that take a body.

    Why: the hooks make the parsed body fit before vLLM's models read it; a second parser in front of vLLM would cost
    more than the gateway does in all. FastAPI takes a request class with each route, and vLLM makes the routes.
    vLLM: 0.32, FastAPI 0.136. Upstream: none known.
    Obsolete: vLLM offers middleware that gets the parsed body.
    """
    from fastapi.routing import APIRoute, request_response

    for route in app.routes:
        if isinstance(route, APIRoute) and route.body_field is not None:
            route.app = request_response(prepared(route.get_route_handler()))


def count_no_adapters(client: AsyncLLM) -> None:
    """Remove the gauge ``vllm:lora_requests_info``.

    Why: vLLM adds a series for each combination of adapters and never removes one; and its adapters are versions, which
    no client calls. ``server.metrics`` has the gauge with one series, under the names of the adapters.
    vLLM: 0.32. Upstream: https://github.com/vllm-project/vllm/issues/45411
    Obsolete: vLLM's gauge has one series.
    """
    from prometheus_client import REGISTRY
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    for logger in client.logger_manager.stat_loggers if client.logger_manager is not None else ():
        if isinstance(logger, PrometheusStatLogger) and logger.gauge_lora_info is not None:
            REGISTRY.unregister(logger.gauge_lora_info)
            logger.gauge_lora_info = None


def meter_generations(client: AsyncLLM, generate: Generate, encode: Generate) -> None:
    """Replace ``generate`` and ``encode`` of the engine's client.

    Why: each generation takes a lease and a turn, is metered, and ends at the first NaN. Every endpoint of vLLM calls
    these two methods, and no hook of vLLM runs before and after them.
    vLLM: 0.32. Upstream: none known.
    Obsolete: vLLM offers middleware around the generations of its client.
    """
    client.generate, client.encode = generate, encode


def record_engine_death(app: FastAPI) -> None:
    """Set the ``state.server`` of vLLM's app; its ``should_exit`` becomes true once the engine is dead.

    Why: vLLM's handler of a dead engine stops the HTTP server that its own launcher has put there; ours runs on.
    vLLM: 0.32. Upstream: none known.
    Obsolete: the handlers of ``vllm.entrypoints.serve.exception_handling`` read no ``state.server``.
    """
    app.state.server = SimpleNamespace(should_exit=False)


def fork_engine_core() -> None:
    """Replace the start method of engine cores by the fork server, where one runs (CPU build).

    Why: a spawned process imports six thousand modules; see ``cpu/fork_server.py``.
    vLLM: 0.32. Upstream: none known; ``VLLM_WORKER_MULTIPROC_METHOD`` takes ``fork`` and ``spawn`` alone.
    Obsolete: vLLM takes ``forkserver``, and a start without this patch is as fast.
    """
    from server.engine.vllm.cpu import fork_server

    if fork_server.is_running():
        from vllm.v1.engine import utils

        utils.get_mp_context = fork_server.VllmContext


def quiet_engine_core() -> None:
    """Replace the context that spawns engine cores, where no fork server runs.

    Why: a core that fails prints a traceback of the core, which hides the worker's; both were logged before. And a
    terminal's Ctrl-C reaches the core, which then breaks off streams that the server would let finish.
    vLLM: 0.32. Upstream: none known.
    Obsolete: without this patch, a wrong model prints no traceback, and a stream outlives the first Ctrl-C.
    """
    from server.engine.vllm.cpu import fork_server

    if not fork_server.is_running():
        from vllm.v1.engine import utils

        if utils.get_mp_context().get_start_method() == "spawn":
            utils.get_mp_context = EngineContext


# -- the worker's process ------------------------------------------------------------------------------------------


def load_prepared_adapters(
    manager: WorkerLoRAManager,
    load: Callable[[LoRARequest], LoRAModel],
    pack: Callable[[LoRAModel], None],
    activate: Callable[[int], bool],
) -> None:
    """Replace how a worker reads an adapter, packs it, and writes it into a slot.

    Why: vLLM reads, casts and packs between two steps of the model, and every stream waits. A thread has prepared it.
    vLLM: 0.32. Upstream: none known.
    Obsolete: vLLM loads adapters beside its steps: a stream keeps its pace while ``add_lora`` runs.
    """
    slots = manager._adapter_manager
    manager._load_adapter = load
    slots._create_merged_loras_inplace = pack
    slots.activate_adapter = activate


def replace_factors(weights: LoRALayerWeights, lora_a: Any, lora_b: Any) -> None:
    """Replace the factors of one layer of an adapter.

    Why: vLLM writes a slot from pinned host memory in the computing stream; copies on the device are faster.
    vLLM: 0.32. Upstream: none known.
    Obsolete: as ``load_prepared_adapters``.
    """
    weights.lora_a, weights.lora_b = lora_a, lora_b


# -- every process of vLLM -----------------------------------------------------------------------------------------


def end_with_parent() -> None:
    """Watch the parent of this process, if ``multiprocessing`` started it, and end when the parent has ended.

    Why: an engine core does not watch its parent. After ``kill -9`` of the server it would keep the accelerator's
    memory, and the restarted server would find none. Workers watch the core themselves.
    vLLM: 0.32.
    Upstream: https://github.com/vllm-project/vllm/issues/55510, with a fix proposed in pull request 55846.
    Obsolete: without this patch, no engine core is left after ``kill -9`` of the server.
    """
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == WATCHER for thread in threading.enumerate()):
        return
    threading.Thread(target=_wait_and_exit, args=(parent.sentinel,), name=WATCHER, daemon=True).start()


def _wait_and_exit(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def limit_white_space() -> None:
    """Let the backends of structured output allow one space between tokens of JSON, not any number.

    Why: JSON allows white space anywhere, small models never leave it, and their answers never close. vLLM's
    ``disable_any_whitespace`` allows none, and an adapter that was trained on ``{"a": 1}`` answers wrongly without its
    spaces; and vLLM takes that setting with a named backend alone. A backend that the operator names stays as it is.
    vLLM: 0.32. Upstream: none known.
    Obsolete: vLLM limits white space with the backend "auto".
    """
    if multiprocessing.current_process().name.startswith("EngineCore"):
        from vllm.v1.structured_output.backend_guidance import GuidanceBackend
        from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

        from server.engine.vllm import white_space

        XgrammarBackend.__post_init__ = white_space.limited_compiler(XgrammarBackend.__post_init__)
        GuidanceBackend.compile_grammar = white_space.limited_schemas(GuidanceBackend.compile_grammar)


# -- every process of the CPU build --------------------------------------------------------------------------------


def fork_workers() -> None:
    """Replace the start method of workers by the fork server, in a process that was forked from it.

    Why: as ``fork_engine_core``, which starts the process that starts the workers.
    vLLM: 0.32. Upstream: none known.
    Obsolete: as ``fork_engine_core``.
    """
    from server.engine.vllm.cpu import fork_server

    if (binding := fork_server.OpenMPBinding.inherited) is not None:
        from vllm.v1.executor import multiproc_executor

        multiproc_executor.get_mp_context = partial(fork_server.VllmContext, binding)


def sleep_while_idle() -> None:
    """Replace ``sched_yield`` by a sleep of 50 µs where the engine core waits for its worker.

    Why: the core spins there and shares a CPU with the server, its clients and the threads that prepare adapters. Linux
    may give it the CPU right back, for seconds (seen on 6.18). Workers spin on: they have CPUs of their own, and so
    keep them from a training job between two steps. See docs/decisions/012.
    vLLM: 0.32, ``SpinCondition``.
    Upstream: https://github.com/vllm-project/vllm/pull/52848 proposes a sleep there.
    Obsolete: vLLM sleeps there by a setting; 32 clients get as many tokens a second without this patch.
    """
    if multiprocessing.current_process().name.startswith("EngineCore"):
        from vllm.distributed.device_communicators import shm_broadcast

        shm_broadcast.sched_yield = partial(time.sleep, SLEEP_S)


def skip_rows_without_adapter() -> None:
    """Replace the LoRA operations of the CPU platform.

    Why: rows without adapter have slot −1, which indexes the last slot: in a mixed batch they get its adapter.
    vLLM: 0.28 to 0.32.
    Upstream: https://github.com/vllm-project/vllm/pull/48421
    Obsolete: test_lora_gathered.py finds vLLM's own operations right.
    """
    from vllm.lora.punica_wrapper import punica_cpu

    from server.engine.vllm.cpu.lora.gathered import OPERATIONS

    for name, operation in OPERATIONS.items():
        setattr(punica_cpu, name, operation)


def multiply_slots_densely() -> None:
    """Replace the LoRA wrapper of the CPU platform, and let it hold the weights of each layer.

    Why: vLLM gathers the factors of each token's adapter, which takes several times as long; see docs/decisions/009.
    And prompt log-probabilities under an adapter end the engine as soon as another request is in the batch.
    vLLM: 0.32. ``set_mapping`` is called once for each layer, before any adapter is written.
    Upstream: https://github.com/vllm-project/vllm/issues/16668 (log-probabilities); none known for the speed.
    Obsolete: ``bench`` finds stock vLLM as fast with adapters, and the contract suite passes without this patch.
    """
    from vllm.lora.layers import BaseLayerWithLoRA
    from vllm.platforms import current_platform

    wrapper = "server.engine.vllm.cpu.lora.wrapper.DenseWrapper"
    type(current_platform).get_punica_wrapper = classmethod(lambda _: wrapper)
    BaseLayerWithLoRA.set_mapping = _set_mapping


def _set_mapping(layer: BaseLayerWithLoRA, wrapper: Any) -> None:
    layer.punica_wrapper = wrapper  # all that vLLM's own method does
    for name, value in wrapper.adopt(layer).items():
        setattr(layer, name, value)


def clear_cache_blocks() -> None:
    """Let vLLM clear every KV-cache block before it is used again.

    Why: the CPU's attention reads a block to its end and weighs what lies behind a request's own tokens with zero. Zero
    times NaN is NaN: after one adapter computed NaN, requests that got its blocks answered with token 0, for good.
    vLLM: 0.32, which clears blocks for models with state-space layers or caches of mixed precision.
    Upstream: https://github.com/vllm-project/vllm/pull/35219 (those models); none known for the CPU.
    Obsolete: test_nan_is_reported_and_reaches_no_other_request passes on the real engine without this patch.
    """
    from vllm.v1.kv_cache_interface import KVCacheConfig

    KVCacheConfig.needs_kv_cache_zeroing = True


def rewind_seeded_draws() -> None:
    """Let a request with a seed survive that its prompt is read in parts.

    Why: vLLM draws a token after each part and throws it away; then it sets the request's generator back by an offset,
    which a generator of a CPU does not have: the engine dies. One such request is enough.
    vLLM: 0.32, ``GPUModelRunner._bookkeeping_sync``. Upstream: none known.
    Obsolete: test_a_seed_survives_that_a_prompt_is_read_in_parts passes on the real engine without this patch.
    """
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    from server.engine.vllm.cpu import seeded_draws

    CPUModelRunner._bookkeeping_sync = seeded_draws.rewinding(CPUModelRunner._bookkeeping_sync)
