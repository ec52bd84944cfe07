"""The base model that adapters are checked against: its linear modules and their shapes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.errors import BaseModelUnreadable, SafetensorsMalformed
from adapters.storage.number_formats import WEIGHT_DTYPES
from adapters.storage.safetensors_header import BASE_HEADER, Header, Tensor, read_header

Modules = Mapping[str, tuple[int, int]]
"""Module path as PEFT names it -> (out_features, in_features)."""

CONFIG = "config.json"
EMBEDDING = "embed_tokens"
HEAD = "lm_head"

_UNSERVED_EMBEDDINGS = frozenset({"wte", "wpe", "word_embeddings", "embed_positions", "embed_in"})
"""Embeddings under older names: two-dimensional weights that are not linear modules; vLLM supports no LoRA on them."""

_VOLATILE = frozenset({"transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache"})
"""Keys of config.json that do not identify the model."""

_DTYPES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""By torch's names."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model's name, identity and shapes. The same adapters fit models with equal fingerprints.

    ``modules`` holds every module that may carry a LoRA, whose A is [r, in_features] and B [out_features, r].
    An untied ``embed_tokens`` is among them as (hidden size, vocabulary size): a lookup is a product with
    one-hot rows. Where input and output embeddings share their weights neither is listed: no LoRA is admitted
    on them. ``dtype``, as safetensors names it, is the format of most of the modules' weights; F32 if adapters
    cannot be stored in that format.
    """

    name: str
    fingerprint: str
    modules: Modules = field(repr=False, hash=False)
    dtype: str = field(default="F32", compare=False)
    architectures: tuple[str, ...] = field(default=(), compare=False)
    """The classes that config.json names."""

    @classmethod
    def from_directory(cls, path: Path, name: str) -> BaseModel:
        """Read config.json and the headers of the safetensors files in ``path``; no weights are read.

        The names of the weights must be those of the modules, as with every text model that transformers
        saves. Shapes of weights packed by a quantiser are not module shapes: use ``from_shapes`` for those.

        Raises:
            BaseModelUnreadable: config.json or the weights are missing, broken or quantised.
        """
        tensors = (tensor for _, header in headers_in(path) for tensor in header.tensors.values())
        return cls.from_headers(name, read_config(path / CONFIG), tensors)

    @classmethod
    def from_headers(cls, name: str, config: Mapping[str, Any], headers: Iterable[Tensor]) -> BaseModel:
        """Build from config.json's fields and the tensors in the headers; BaseModelUnreadable if quantised."""
        if config.get("quantization_config"):
            raise BaseModelUnreadable(
                f"{name}: the weights are quantised, so their files do not have the modules' shapes; "
                "use the shapes that the engine reports"
            )
        tensors = list(headers)
        modules = dict(_linear_modules(tensors, config))
        stored = Counter(t.dtype for t in tensors if t.name.removesuffix(".weight") in modules)
        common = stored.most_common(1)[0][0] if stored else "F32"
        return cls.from_shapes(name, config, modules, dtype=common if common in WEIGHT_DTYPES else "F32")

    @classmethod
    def from_shapes(
        cls, name: str, config: Mapping[str, Any], modules: Modules, *, dtype: str | None = None
    ) -> BaseModel:
        """Build from known shapes and the fields of config.json.

        ``dtype``: None to read it from ``config``, as for weights that a quantiser packed.
        """
        ordered = dict(sorted(modules.items()))
        architectures = config.get("architectures")
        classes = tuple(map(str, architectures)) if isinstance(architectures, list) else ()
        return cls(name, _fingerprint(config, ordered), ordered, dtype or _declared_dtype(config), classes)


def read_config(path: Path) -> dict[str, Any]:
    """Return the fields of the config.json at ``path``; BaseModelUnreadable if it is missing or not a JSON object."""
    try:
        return parse_config(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise BaseModelUnreadable(f"{path} is missing: point at a directory in Hugging Face format") from None
    except OSError as error:
        raise BaseModelUnreadable(f"{path} cannot be read: {error}") from error


def parse_config(content: bytes, where: str) -> dict[str, Any]:
    """As ``read_config``, of the ``content`` of a config.json; ``where`` names the file in errors."""
    try:
        config = json.loads(content)  # not strict: Mamba-like models write Infinity
    except ValueError as error:
        raise BaseModelUnreadable(f"{where} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise BaseModelUnreadable(f"{where} is not a JSON object")
    return config


def headers_in(directory: Path) -> Iterator[tuple[Path, Header]]:
    """Yield each file of weights in ``directory`` with its header.

    Raises:
        BaseModelUnreadable: there is none, or one cannot be read.
    """
    # Mistral ships the weights twice; consolidated*.safetensors has other tensor names.
    files = sorted(directory.glob("model*.safetensors")) or sorted(directory.glob("*.safetensors"))
    if not files:
        raise BaseModelUnreadable(
            f"{directory} has no *.safetensors: download the model's safetensors files, or save it with save_pretrained"
        )
    for file in files:
        try:
            yield file, read_header(file, BASE_HEADER)
        except (OSError, SafetensorsMalformed) as error:
            raise BaseModelUnreadable(f"{file} cannot be read: {error}") from error


def _linear_modules(tensors: Iterable[Tensor], config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, int]]]:
    shapes = {
        tensor.name.removesuffix(".weight"): tensor.shape
        for tensor in tensors
        if tensor.name.endswith(".weight") and len(tensor.shape) == 2
    }
    tied = config.get("tie_word_embeddings") is True or HEAD not in shapes
    for module, (rows, columns) in shapes.items():
        short = module.rpartition(".")[2]
        if short in _UNSERVED_EMBEDDINGS or (tied and short in {EMBEDDING, HEAD}):
            continue
        yield module, (columns, rows) if short == EMBEDDING else (rows, columns)


def _declared_dtype(config: Mapping[str, Any]) -> str:
    """Return the format of the weights in config.json, or in its text model's config."""
    places = [config, config.get("text_config")]
    named = [place.get(key) for place in places if isinstance(place, Mapping) for key in ("dtype", "torch_dtype")]
    return next((_DTYPES[name] for name in named if isinstance(name, str) and name in _DTYPES), "F32")


def _fingerprint(config: Mapping[str, Any], modules: Modules) -> str:
    identity = {"config": _stable(config), "modules": [[module, *shape] for module, shape in modules.items()]}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _stable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _stable(item) for key, item in value.items() if key not in _VOLATILE}
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    return value
