"""A fully trained model as a directory that can be served: a copy of the base with other numbers in its files."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch

from adapters.base_model import BaseModel, headers_in
from adapters.errors import BaseModelUnreadable
from adapters.storage.number_formats import encode
from trainer.endings import BaseRefused, SpecRefused
from trainer.methods.base_model import is_trained
from trainer.run_spec import RunSpec

_TEMPLATE: Final = "chat_template.jinja"
_LEFT_OUT: Final = (
    "*.safetensors",
    "*.bin",
    "*.bin.index.json",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "README.md",
    ".*",
)
"""Files beside a base model's safetensors that hold its weights once more, or describe it."""
STATE_BYTES: Final = 16
"""Of a trained number: the number, its gradient and Adam's two moments, each in float32."""


def needs(spec: RunSpec, place: Path) -> Mapping[str, int]:
    """Return the trained numbers, and the bytes that they take in memory and, below ``place``, on the disk.

    On the disk there are two at a time of the newest checkpoint's state (without gradients) and of the whole model.

    Raises:
        BaseRefused: the base's weights cannot be read.
        SpecRefused: this machine has less.
    """
    try:
        modules = BaseModel.from_directory(spec.base, spec.base.name).modules
        size = sum(file.stat().st_size for file, _ in headers_in(spec.base))
    except BaseModelUnreadable as unreadable:
        raise BaseRefused(unreadable.message) from unreadable
    trained = sum(rows * columns for name, (rows, columns) in modules.items() if is_trained(name, spec.targets))
    memory, disk = STATE_BYTES * trained, 2 * ((STATE_BYTES - 4) * trained + size)
    on_gpu = torch.cuda.is_available()
    has = torch.cuda.get_device_properties(0).total_memory if on_gpu else os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    if memory > has:
        what = "the weights, their gradients and the optimizer's state take"
        raise SpecRefused(
            f"{what} {_gigabytes(memory)} and the {'GPU' if on_gpu else 'machine'} has {_gigabytes(has)}: "
            "train a LoRA, or fewer targets"
        )
    if disk > (free := shutil.disk_usage(place).free):
        what = "checkpoints and the whole model take"
        raise SpecRefused(f"{what} {_gigabytes(disk)} of the disk and {_gigabytes(free)} are free: free some")
    return {"trained_parameters": trained, "state_bytes": memory, "disk_bytes": disk}


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def write_model(directory: Path, spec: RunSpec, weights: Mapping[str, torch.Tensor]) -> None:
    """Write the run's base model to ``directory`` with ``weights``, by the names of tensors, in place of its own.

    Layout and number formats are the base's, so that whatever reads the base reads it.
    """
    directory.mkdir()
    for file in _beside_the_weights(spec.base):
        shutil.copyfile(file, directory / file.name)
    if (template := spec.renderer.chat_template) is not None:  # with which the rows were rendered
        (directory / _TEMPLATE).write_text(template)
    for file, header in headers_in(spec.base):
        shutil.copyfile(file, directory / file.name)
        with (directory / file.name).open("r+b") as copy:
            for name in header.tensors.keys() & weights.keys():
                tensor = header.tensors[name]
                copy.seek(header.data_start + tensor.begin)
                copy.write(encode(weights[name].numpy(), tensor.dtype))


def _beside_the_weights(base: Path) -> Iterator[Path]:
    for file in sorted(base.iterdir()):
        if file.is_file() and not any(file.match(pattern) for pattern in _LEFT_OUT):
            yield file
