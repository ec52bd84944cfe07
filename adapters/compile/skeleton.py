"""The change that any PEFT tuner makes to a base model's weights, computed by PEFT, one module at a time.

PEFT gets a skeleton: all linear modules of the base under their names, so that it finds its targets and shares
parameters between layers; but their weights are one zero expanded to the right shape. A module has its true weight, in
float64, only while its change is computed.
"""

import re
import warnings
from collections.abc import Iterator, Mapping

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from adapters.base_model import EMBEDDING
from adapters.compile.source import CompileSource
from adapters.compile.weights import BaseWeights
from adapters.errors import AdapterRefused, Fault
from adapters.lora.lora_tensors import at
from adapters.lora.tensor_names import PREFIX
from adapters.processes.limits import is_out_of_memory
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE
from adapters.storage.number_formats import WEIGHT_DTYPES

_INDEX_DTYPES = frozenset({"BOOL", "I32", "I64", "U8"})
_PROBES = 4
_TOLERANCE = 1e-5
"""Some tuners compute parts in float32 whatever the dtype of their inputs."""

PEFT_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    re.error,
    TypeError,
    ValueError,
)
"""What PEFT raises for a config that it cannot apply."""


def changes(source: CompileSource, config: PeftConfig, base: BaseWeights) -> Iterator[tuple[str, Tensor]]:
    """Yield each adapted module and what the adapter adds to its weight: [out_features, in_features], float64.

    Raises:
        AdapterRefused: PEFT cannot read the config, tensors are missing, left over or of another shape, or a change
            is no matrix added to the weight.
    """
    model = _adapted(source, config, base)
    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer):
            module = name.removeprefix(PREFIX)
            with torch.no_grad():
                change = _change(module, layer, base)
            yield module, change


def _adapted(source: CompileSource, config: PeftConfig, base: BaseWeights) -> PeftModel:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(_skeleton(base), config).eval()
            if config.peft_type == "ADALORA" and config.rank_pattern:  # to what training left, as PEFT does on loading
                model.base_model.resize_modules_by_rank_pattern(config.rank_pattern, "default")
                config.rank_pattern = None
            expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    except PEFT_ERRORS as error:
        raise config_refused(error) from None
    if faults := list(_coverage_faults(source, expected)):
        raise AdapterRefused(faults)
    set_peft_model_state_dict(model, {name: source.tensor(name) for name in expected})
    return model


def _skeleton(base: BaseWeights) -> nn.Module:
    root = nn.Module()
    for module, (out_features, in_features) in base.model.modules.items():
        *parents, name = module.split(".")
        if name == EMBEDDING:
            continue
        parent = root
        for part in parents:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        linear = nn.Linear(in_features, out_features, bias=f"{module}.bias" in base.tensors, device="meta")
        linear.weight = _placeholder(linear.weight)
        if linear.bias is not None:
            linear.bias = _placeholder(linear.bias)
        parent.add_module(name, linear)
    return root


def _placeholder(like: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.zeros((), dtype=torch.float64).expand(like.shape), requires_grad=False)


def _coverage_faults(source: CompileSource, expected: Mapping[str, Tensor]) -> Iterator[Fault]:
    found = source.header.tensors
    for name in sorted(found.keys() - expected.keys()):
        needed = f"the tensors of the modules that {CONFIG_FILE} names"
        yield Fault(at(found[name]), "a tensor that PEFT does not read", needed)
    for name in sorted(expected.keys() - found.keys()):
        needed = f"one of shape {list(expected[name].shape)}: save again"
        yield Fault(f"{WEIGHTS_FILE}: {name}", "no such tensor", needed)
    for name in sorted(expected.keys() & found.keys()):
        is_number = expected[name].is_floating_point()
        if found[name].dtype not in (WEIGHT_DTYPES if is_number else _INDEX_DTYPES):
            needed = "F32, F16 or BF16: save the weights unquantised" if is_number else "whole numbers"
            yield Fault(at(found[name]), f"dtype {found[name].dtype}", needed)
        if found[name].shape != tuple(expected[name].shape):
            needed = f"{list(expected[name].shape)}, as {CONFIG_FILE} and the base model say"
            yield Fault(at(found[name]), f"shape {list(found[name].shape)}", needed)


def _change(module: str, layer: BaseTunerLayer, base: BaseWeights) -> Tensor:
    linear = layer.get_base_layer()
    weight = base.read(f"{module}.weight").double()
    linear.weight.data = weight.clone()
    if linear.bias is not None:
        linear.bias.data = base.read(f"{module}.bias").double()
    inputs = torch.randn(_PROBES, weight.shape[1], dtype=weight.dtype, generator=torch.Generator().manual_seed(0))
    inputs[0] = 0  # the output for zeros is a bias
    plain = linear(inputs)
    try:
        with torch.sparse.check_sparse_tensor_invariants():  # uploaded indices: unchecked they reach any memory
            seen = layer(inputs) - plain
            layer.merge()
    except PEFT_ERRORS as error:
        raise config_refused(error) from None
    change: Tensor = linear.weight.data - weight
    linear.weight = _placeholder(weight)
    missed = float(torch.linalg.norm(seen - inputs @ change.T))
    if not missed <= _TOLERANCE * float(torch.linalg.norm(seen)) + 1e-9 * float(torch.linalg.norm(plain)):
        found = "an adapter whose effect is no matrix added to the weight (a bias, or a function of the input)"
        needed = "LoRA, or another method that PEFT merges into the weights without a loss"
        raise AdapterRefused([Fault(f"{WEIGHTS_FILE}: {PREFIX}{module}", found, needed)])
    return change


def config_refused(error: Exception) -> AdapterRefused:
    """Return the refusal for an error of PEFT; a failed allocation is raised again."""
    if is_out_of_memory(error):
        raise error
    text = ascii(str(error))[1:-1]
    found = f"a config that PEFT refuses ({type(error).__name__}: {text[:300]})"
    needed = "the config that belongs to these weights and to this base model"
    return AdapterRefused([Fault(CONFIG_FILE, found, needed)])
