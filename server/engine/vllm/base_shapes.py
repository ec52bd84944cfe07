"""The base model's shapes: from its safetensors files where possible, else from the architecture in its config."""

from __future__ import annotations

import json
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from adapters.base_model import BaseModel
from adapters.errors import BaseModelUnreadable
from server.engine.protocol import StartRefused

_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")


def read_base(args: Namespace, name: str) -> tuple[BaseModel, Path]:
    """Return the base model of vLLM's parsed ``args``, and its directory. A hub model is downloaded, as vLLM does.

    Raises:
        StartRefused: the model does not exist, or cannot be read.
    """
    try:
        directory = _directory(args.model, args.revision)
        if args.load_format != "dummy":
            with suppress(BaseModelUnreadable):  # quantised, or not in safetensors
                return BaseModel.from_directory(directory, name), directory
        return _from_architecture(directory, name), directory
    except (OSError, ValueError, BaseModelUnreadable) as why:
        raise StartRefused(f"base model {args.model!r} cannot be read: {why}") from why


def _directory(model: str, revision: str | None) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, revision=revision, allow_patterns=list(_FILES)))


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
