"""The base model in training: with a fresh adapter, the adapter of a warm start, or its own weights to be trained."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from adapters.base_model import BaseModel
from adapters.checks.inspection import AdapterLimits, inspect_adapter
from adapters.errors import AdapterRefused, BaseModelUnreadable, Fault
from adapters.lora.ranks import SERVABLE_RANKS
from adapters.lora.stored_lora import StoredLora
from trainer.endings import BaseRefused, SpecRefused, WarmStartRefused
from trainer.options import ALL_LINEAR
from trainer.reward_tokens import reward_tokens
from trainer.run_spec import RunSpec
from trainer.training_method import TrainingMethod

_ANY_SIZE: Final = AdapterLimits(max_rank=SERVABLE_RANKS[-1], max_bytes=2**63)
"""The server checks what it can serve; here any size may be trained."""
_USUAL_SCALE: Final = 2
"""alpha / rank of a fresh adapter."""
_HEAD: Final = "score"
"""transformers' name of a classifier's head."""
_UNTRAINED: Final = ("embed_tokens", "lm_head", _HEAD)
"""TRL takes log-probabilities around them, so an adapter there would never be trained."""


def load(spec: RunSpec) -> tuple[Any, LoraConfig | None]:
    """Return the model and the config of the adapter that TRL adds to it.

    None: a warm start brings its own, or the model's own weights are trained.

    On a CPU in float32 (nothing there is faster in bfloat16, and sums are exact enough to repeat); on a GPU in the
    dtype that the base is stored in. With ``quantization`` its linear modules are quantised, all but the output head.

    Raises:
        SpecRefused: the base has no such targets; bitsandbytes is needed and not installed; an option that the method
            does not take.
        BaseRefused: the base's files cannot be read, to check the warm start against them.
        WarmStartRefused: the warm start is no LoRA for this base.
    """
    for name, reason in spec.method.traits.without.items():
        if getattr(spec, name) is not None:
            raise SpecRefused(f"{name} has no effect with method {spec.method}: {reason}")
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    if spec.warm_start is not None:
        _inspect(spec)
    model = _base(spec)
    if spec.method.trains_weights:
        return _trainable(model, spec), None
    task: str | None = "CAUSAL_LM"
    if spec.method is TrainingMethod.REWARD:
        model, task = _scoring(model, spec), None
    if spec.warm_start is not None:
        return _rescaled(_adapted(model, spec, task)), None
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha if spec.alpha is not None else _USUAL_SCALE * spec.rank,
        target_modules=_targets(spec, model),
        exclude_modules=_HEAD if task is None else None,
        lora_dropout=0.0,
        task_type=task,
    )
    return model, config


def _adapted(model: Any, spec: RunSpec, task: str | None) -> Any:
    """Return ``model`` with the adapter of the warm start on it."""
    known = LoraConfig.from_pretrained(spec.warm_start)
    known.task_type = task
    known.base_model_name_or_path = str(spec.base)  # PEFT would look the adapter's own name up on the hub
    return PeftModel.from_pretrained(model, spec.warm_start, config=known, is_trainable=True)


def _trainable(model: Any, spec: RunSpec) -> Any:
    """Return ``model`` with the targets' weights, in float32, as all that is trained; a warm start is merged into them.

    Norms, biases, embeddings and the head stay: no LoRA that vLLM serves could hold what they learn.
    """
    targets = _targets(spec, model)
    trained = [
        part.weight
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and is_trained(name, targets)
    ]
    model.requires_grad_(requires_grad=False)
    if spec.warm_start is not None:
        for module in StoredLora.open(spec.warm_start).shapes:
            model.get_submodule(module).float()  # where it is merged, it is not rounded
        model = _adapted(model, spec, "CAUSAL_LM").merge_and_unload()
    for weight in trained:
        weight.data = weight.data.float()
        weight.requires_grad = True
    return model


def _rescaled(model: Any) -> Any:
    """Give the adapter the scale of a fresh one, with the same product, so that steps have the usual size.

    Served versions have a scale of 1, with which Adam's steps would be half as wide.
    """
    config = model.peft_config["default"]
    if config.use_rslora or config.rank_pattern or config.alpha_pattern:
        return model
    factor = config.lora_alpha / (_USUAL_SCALE * config.r)
    config.lora_alpha = _USUAL_SCALE * config.r
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.scaling["default"] = float(_USUAL_SCALE)
                layer.lora_alpha["default"] = config.lora_alpha
                layer.lora_B["default"].weight *= factor
    return model


def _base(spec: RunSpec) -> Any:
    on_gpu = torch.cuda.is_available()
    options: dict[str, Any] = {"dtype": "auto" if on_gpu else torch.float32, "local_files_only": True}
    if spec.quantization is not None:
        try:
            import bitsandbytes  # noqa: F401 - transformers quantises with it
        except ImportError as missing:
            raise SpecRefused(
                "quantization needs bitsandbytes where jobs are trained: patchbay's extras 'cpu' and 'cuda' have it"
            ) from missing
        options["device_map"] = {"": torch.cuda.current_device() if on_gpu else "cpu"}  # a process has one GPU
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if on_gpu else torch.float32,
        )
    return AutoModelForCausalLM.from_pretrained(spec.base, **options)


def _scoring(model: Any, spec: RunSpec) -> Any:
    """Return ``model`` as a sequence classifier of one number, the log-odds of "yes" against "no"; its head is fixed.

    The head is the difference of two rows of the output head, so the adapter alone is trained, and the served base
    model computes the same number with it.

    Raises:
        SpecRefused: transformers has no classifier of this architecture, or the tokenizer no such tokens.
    """
    try:
        better, worse = reward_tokens(lambda text: tokenizer(spec).encode(text, add_special_tokens=False))
        config = deepcopy(model.config)
        config.num_labels = 1
        with torch.device("meta"):  # its own weights are replaced
            scoring = AutoModelForSequenceClassification.from_config(config)
    except ValueError as unsuitable:
        raise SpecRefused(f"no reward model can be trained on {spec.base.name}: {unsuitable}") from unsuitable
    rows = model.get_output_embeddings().weight.detach()
    body = scoring.base_model_prefix
    setattr(scoring, body, getattr(model, body))
    head = torch.nn.Linear(rows.shape[1], 1, bias=False, device=rows.device, dtype=rows.dtype)
    head.weight = torch.nn.Parameter((rows[better] - rows[worse]).unsqueeze(0), requires_grad=False)
    setattr(scoring, _HEAD, head)
    for name in ("is_loaded_in_4bit", "hf_quantizer", "is_quantized", "quantization_method", "hf_device_map"):
        if hasattr(model, name):
            setattr(scoring, name, getattr(model, name))
    return scoring


def _inspect(spec: RunSpec) -> None:
    """Inspect the warm start: PEFT leaves out missing tensors and skips those that fit no module."""
    assert spec.warm_start is not None
    try:
        report = inspect_adapter(spec.warm_start, BaseModel.from_directory(spec.base, spec.base.name), _ANY_SIZE).report
    except AdapterRefused as refused:
        raise WarmStartRefused(refused) from refused
    except BaseModelUnreadable as unreadable:
        raise BaseRefused(unreadable.message) from unreadable
    except OSError as error:
        fault = Fault("adapter", f"{error.strerror}", "the two files of a PEFT adapter")
        raise WarmStartRefused(AdapterRefused([fault])) from error
    if untrained := sorted(set(report.target_modules) & set(_UNTRAINED)):
        needed = "layers between embedding and head: they alone are trained"
        raise WarmStartRefused(AdapterRefused([Fault("target_modules", ", ".join(untrained), needed)]))


def _targets(spec: RunSpec, model: Any) -> str | list[str]:
    """Return the target modules as PEFT takes them.

    Raises:
        SpecRefused: one of them is no linear module of the base, or cannot be trained.
    """
    if spec.targets == ALL_LINEAR:
        return ALL_LINEAR
    linear = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    known = linear - set(_UNTRAINED)
    unknown = [target for target in spec.targets if target.rpartition(".")[2] not in known]
    if unknown:
        raise SpecRefused(f"targets: {', '.join(unknown)} cannot be trained; {spec.base.name} has {sorted(known)}")
    return list(spec.targets)


def is_trained(module: str, targets: str | Sequence[str]) -> bool:
    """Whether the linear ``module`` is one of ``targets``, as PEFT reads them."""
    if module.rpartition(".")[2] in _UNTRAINED:
        return False
    return targets == ALL_LINEAR or any(f".{module}".endswith(f".{target}") for target in targets)


def tokenizer(spec: RunSpec) -> Any:
    """Return the tokenizer that serves; TRL pads with it, and renders nothing.

    Raises:
        BaseRefused: it cannot be read.
    """
    options = spec.renderer
    try:
        return AutoTokenizer.from_pretrained(
            options.tokenizer or spec.base,
            revision=options.tokenizer_revision,
            trust_remote_code=options.trust_remote_code,
            local_files_only=True,
        )
    except (OSError, ValueError) as error:
        raise BaseRefused(f"{spec.base.name} cannot be read as a model: {error}") from error


def export_dtype(spec: RunSpec) -> str:
    """Return the dtype of exported adapters, as safetensors names it: the base's, else float32."""
    stored = AutoConfig.from_pretrained(spec.base, local_files_only=True).dtype
    return {torch.bfloat16: "BF16", torch.float16: "F16"}.get(stored, "F32")


def linear_modules(adapted: Any) -> frozenset[str]:
    """Return the names of the linear modules of a base model, with PEFT's adapters on it or without."""
    named = (adapted.get_base_model() if isinstance(adapted, PeftModel) else adapted).named_modules()
    linear = (name for name, part in named if isinstance(part, torch.nn.Linear) and ".lora_" not in name)
    linear = (name for name in linear if name != _HEAD)
    return frozenset(name.removesuffix(".base_layer") for name in linear)


def vocabulary(spec: RunSpec) -> int:
    """Return the number of logits of a token."""
    size: int = AutoConfig.from_pretrained(spec.base, local_files_only=True).get_text_config().vocab_size
    return size


def width(spec: RunSpec) -> int:
    """Return the base's hidden size, which its learning rate depends on."""
    size: int = AutoConfig.from_pretrained(spec.base, local_files_only=True).get_text_config().hidden_size
    return size
