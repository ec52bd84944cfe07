"""What vLLM computes no LoRA for: an architecture, a mixture of experts on the CPU build, single modules.

vLLM leaves some modules out of an adapter without a word, refuses others, or dies of the first request.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.v1.engine.async_llm import AsyncLLM

_EXPERTS = ".experts"


def unsupported_architecture(args: Namespace) -> str | None:
    """Return the reason why the model of vLLM's parsed ``args`` can have no adapter; None: its class supports LoRA.

    None too where the class cannot be found: the start has then failed for another reason. Blocks.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.model_executor.models import ModelRegistry, supports_lora

    try:
        config = AsyncEngineArgs.from_cli_args(args).create_model_config()
        model, architecture = ModelRegistry.resolve_model_cls(config.architectures, config)
    except Exception:  # noqa: BLE001  whatever vLLM raises there, its own check of the model says at the start
        return None
    if supports_lora(model):
        return None
    return f"vLLM supports no LoRA on {architecture}, the architecture of {args.model}: serve another base model"


def experts_on_a_cpu(client: AsyncLLM) -> str | None:
    """Return the reason why the running engine can have no adapter: experts' LoRA needs a GPU; None: no experts.

    Its first request would end the engine, whether or not it names an adapter.
    """
    from vllm.platforms import current_platform

    config = client.model_config
    if not (current_platform.is_cpu() and config.is_moe):
        return None
    return (
        f"{config.model} is a mixture of experts, whose LoRA vLLM computes on a GPU alone: its CPU build would die of "
        "the first request. Serve it on a machine with a GPU, or another base model"
    )


def unserved_modules(manager: LoRAModelManager, names: Iterable[str]) -> list[str]:
    """Return those of the base model's modules ``names`` on which this worker's adapters have no effect.

    ``names``: as PEFT names them. A module that this worker does not hold is not among them.
    """
    parents: dict[str, list[str]] = {}
    for packed, parts in manager.packed_modules_mapping.items():
        for part in parts:
            parents.setdefault(part, []).append(packed)
    expected = {*manager.supported_lora_modules, *parents}
    held = {name for name, module in manager.model.named_modules() if type(module).__name__ != "PPMissingLayer"}
    mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
    renames = None if mapper is None else mapper.get_rename_mapper()

    def is_unserved(name: str) -> bool:
        places = list(_places(_vllm_name(name, renames), parents))
        if any(place in manager.modules for place in places):
            return False
        last = places[0].rpartition(".")[2]
        return last not in expected or any(place in held for place in places)

    return [name for name in names if is_unserved(name)]


def _vllm_name(name: str, renames: Any) -> str:
    from vllm.lora.utils import parse_fine_tuned_lora_name

    return str(parse_fine_tuned_lora_name(f"base_model.model.{name}.lora_A.weight", renames)[0])


def _places(module: str, parents: dict[str, list[str]]) -> Iterator[str]:
    """Yield the names of vLLM's modules that may hold the weights of ``module``: its own, and those it is packed in."""
    before, experts, behind = module.partition(_EXPERTS)
    if experts and behind[:1] in ("", "."):
        yield before + experts
        return
    yield module
    prefix, dot, last = module.rpartition(".")
    yield from (f"{prefix}{dot}{parent}" for parent in parents.get(last, ()))
