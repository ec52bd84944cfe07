"""Adapters that must not be served: each spoils a directory with the two files of a good one (the embedded `sql`)."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
Q0 = f"{PREFIX}model.layers.0.self_attn.q_proj"
PICKLE = b"\x80\x04cos\nsystem\n(S'true'\ntR."
MANY = 60_000

Spoil = Callable[[Path], object]
Tensors = dict[str, torch.Tensor]


class Bad(NamedTuple):
    """How to spoil a good adapter, what its refusal must say, and which stage finds it."""

    spoil: Spoil
    reason: str
    found_by: str = "checks"
    """``checks``: by the files; ``engine``: by the probe; ``compiler``: another method; ``upload``: by the name;
    ``directory``: by the name, and an upload leaves the file out with a note."""


# -- the config ----------------------------------------------------------------------------------------------


def text_with(change: Callable[[str], str | bytes]) -> Spoil:
    def spoil(directory: Path) -> None:
        changed = change((directory / CONFIG).read_text())
        (directory / CONFIG).write_bytes(changed if isinstance(changed, bytes) else changed.encode())

    return spoil


def config_with(**changes: Any) -> Spoil:
    return text_with(lambda text: json.dumps({**json.loads(text), **changes}))


def config_without(field: str) -> Spoil:
    return text_with(lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != field}))


def stated(field: str, written: str) -> Spoil:
    """Set a field to text that need not be JSON."""

    def changed(text: str) -> str:
        others = {key: value for key, value in json.loads(text).items() if key != field}
        return f'{json.dumps(others)[:-1]}, "{field}": {written}}}'

    return text_with(changed)


CONFIGS = {
    "config is not JSON": Bad(text_with(lambda _: "{"), CONFIG),
    "config is a list": Bad(text_with(lambda text: f"[{text}]"), "no object"),
    "config in UTF-16": Bad(text_with(lambda text: text.encode("utf-16")), "save text as UTF-8"),
    "config that a hub answered": Bad(text_with(lambda _: "Entry not found"), "text that begins"),
    "config of a base model": Bad(
        text_with(lambda _: '{"model_type": "llama", "hidden_size": 64}'), "with the fields hidden_size, model_type"
    ),
    "config that is not UTF-8": Bad(text_with(lambda text: text.encode().replace(b"LORA", b"LOR\xff")), "not JSON"),
    "config nested too deeply": Bad(stated("auto_mapping", "[" * 100_000), "not JSON"),
    "config above a megabyte": Bad(text_with(lambda text: text + " " * (2 << 20)), "at most 1048576"),
    "a field twice": Bad(text_with(lambda text: text.replace("{", '{"r": 16,', 1)), "occurs twice"),
    "an unknown field": Bad(config_with(use_magic=True), "use_magic"),
    "rank too high": Bad(config_with(r=64), "--max-lora-rank 64"),
    "rank 0": Bad(config_with(r=0), "whole number from 1"),
    "rank below 0": Bad(config_with(r=-8), "whole number from 1"),
    "rank with a fraction": Bad(config_with(r=8.5), "whole number from 1"),
    "rank as a float": Bad(config_with(r=8.0), "whole number from 1"),
    "rank as text": Bad(config_with(r="8"), "whole number from 1"),
    "rank as a truth": Bad(config_with(r=True), "whole number from 1"),
    "rank of five thousand digits": Bad(stated("r", "9" * 5000), CONFIG),
    "no rank": Bad(config_without("r"), "the rank"),
    "tensor rank above the config": Bad(config_with(r=4), "rank"),
    "tensor rank below the config": Bad(config_with(r=16), "rank 16 is what r"),
    "a pattern's rank too high": Bad(config_with(rank_pattern={"x": 100}), "--max-lora-rank 128"),
    "a pattern's rank unlike the tensors'": Bad(config_with(rank_pattern={"q_proj": 4}), "rank 4 is what r"),
    "a pattern that never ends": Bad(config_with(rank_pattern={"(.*.*)+x": 8}), "matched quickly"),
    "null alpha": Bad(config_with(lora_alpha=None), "lora_alpha"),
    "alpha 0": Bad(config_with(lora_alpha=0), "lora_alpha"),
    "alpha below 0": Bad(config_with(lora_alpha=-16), "lora_alpha"),
    "alpha as text": Bad(config_with(lora_alpha="16"), "lora_alpha"),
    "alpha too large": Bad(config_with(lora_alpha=1e12), "at most 65536"),
    "alpha beyond a double": Bad(stated("lora_alpha", "1e999"), "lora_alpha"),
    "alpha NaN": Bad(stated("lora_alpha", "NaN"), "not JSON"),
    "a pattern's alpha infinite": Bad(stated("alpha_pattern", '{"q_proj": 1e999}'), "alpha_pattern"),
    "alpha that overflows with the weights": Bad(
        lambda d: (config_with(lora_alpha=65_536)(d), tensors_with(times(60.0))(d)), "with its scale"
    ),
    "no targets": Bad(config_with(target_modules=[]), "target_modules"),
    "targets null": Bad(config_with(target_modules=None), "target_modules"),
    "targets that leave tensors out": Bad(config_with(target_modules=["q_proj"]), "PEFT would ignore"),
    "a target without tensors": Bad(
        lambda d: tensors_with(lambda t: {n: v for n, v in t.items() if "q_proj" not in n})(d),
        "tensors for each target",
    ),
    "a target pattern that matches nothing": Bad(config_with(target_modules="q_proj"), "PEFT would ignore"),
    "a target pattern that never ends": Bad(config_with(target_modules="([a-z_.0-9]+)+!"), "matched quickly"),
    "a target pattern that is broken": Bad(config_with(target_modules="(q_proj"), "a pattern that compiles"),
    "excluded modules with tensors": Bad(config_with(exclude_modules=["o_proj"]), "PEFT would ignore"),
    "layers left out that have tensors": Bad(config_with(layers_to_transform=[0, 1]), "PEFT would ignore"),
    "a layers' pattern alone": Bad(config_with(layers_pattern="layers"), "layers_to_transform"),
    "DoRA": Bad(config_with(use_dora=True), "use_dora"),
    "bias": Bad(config_with(bias="all"), "bias"),
    "lora_bias": Bad(config_with(lora_bias=True), "lora_bias"),
    "PiSSA": Bad(config_with(init_lora_weights="pissa"), "init_lora_weights"),
    "OLoRA": Bad(config_with(init_lora_weights="olora"), "init_lora_weights"),
    "CorDA": Bad(config_with(init_lora_weights="corda"), "init_lora_weights"),
    "LoftQ": Bad(config_with(init_lora_weights="loftq"), "init_lora_weights"),
    "modules_to_save": Bad(config_with(modules_to_save=["lm_head"]), "modules_to_save"),
    "trained tokens": Bad(config_with(trainable_token_indices=[1, 2]), "trainable_token_indices"),
    "replicated layers": Bad(config_with(layer_replication=[[0, 4], [2, 4]]), "layer_replication"),
    "activated LoRA": Bad(config_with(alora_invocation_tokens=[1]), "alora_invocation_tokens"),
    "bare parameters": Bad(config_with(target_parameters=["mlp.experts"]), "target_parameters"),
    "KaSA": Bad(config_with(kasa_config={}), "kasa_config"),
    "another task": Bad(config_with(task_type="SEQ_CLS"), "task_type"),
    "LoHa by its own config": Bad(config_with(peft_type="LOHA"), "hada_w1_a", "compiler"),
    "a prompt by its config": Bad(config_with(peft_type="PROMPT_TUNING"), "peft_type", "compiler"),
    "a method nobody knows": Bad(config_with(peft_type="MAGIC"), "peft_type", "compiler"),
}

# -- the header ----------------------------------------------------------------------------------------------


def bytes_with(change: Callable[[bytes], bytes]) -> Spoil:
    return lambda directory: (directory / WEIGHTS).write_bytes(change((directory / WEIGHTS).read_bytes()))


def header_with(change: Callable[[str], str | bytes]) -> Spoil:
    """Change the header's text; the length before it is set right."""

    def spoiled(whole: bytes) -> bytes:
        length = int.from_bytes(whole[:8], "little")
        changed = change(whole[8 : 8 + length].decode())
        raw = changed if isinstance(changed, bytes) else changed.encode()
        return len(raw).to_bytes(8, "little") + raw + whole[8 + length :]

    return bytes_with(spoiled)


def entry_with(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change the header's entry of one tensor, the A of layer 0's q_proj."""

    def changed(text: str) -> str:
        header = json.loads(text)
        change(header[f"{Q0}.lora_A.weight"])
        return json.dumps(header)

    return header_with(changed)


def retagged(old: str, new: str) -> Spoil:
    return header_with(lambda text: text.replace(f'"{old}"', f'"{new}"'))


def crowded(text: str) -> str:
    end = max(entry["data_offsets"][1] for name, entry in json.loads(text).items() if name != "__metadata__")
    entries = ",".join(f'"t{n}":{{"dtype":"F32","shape":[0],"data_offsets":[{end},{end}]}}' for n in range(MANY))
    return f"{text.rstrip()[:-1]},{entries}}}"


HEADERS = {
    "truncated weights": Bad(bytes_with(lambda b: b[: len(b) // 2]), WEIGHTS),
    "weights without their last byte": Bad(bytes_with(lambda b: b[:-1]), "cut off"),
    "weights with a byte more": Bad(bytes_with(lambda b: b + b"\0"), "added to"),
    "empty weights": Bad(bytes_with(lambda b: b""), WEIGHTS),
    "a header beyond the file": Bad(bytes_with(lambda b: (1 << 22).to_bytes(8, "little") + b[8:]), "the whole file"),
    "a header without bound": Bad(bytes_with(lambda b: b"\xff" * 8 + b[8:]), "at most 8388608"),
    "a header of text": Bad(header_with(lambda _: "hello"), "not JSON"),
    "a header of a list": Bad(header_with(lambda text: f"[{text}]"), "not a JSON object"),
    "a header that is not UTF-8": Bad(header_with(lambda text: text.encode().replace(b"lora", b"lor\xff")), "not JSON"),
    "one tensor twice in the header": Bad(
        header_with(lambda text: text.replace("layers.1.self_attn.q_proj", "layers.0.self_attn.q_proj")), "occurs twice"
    ),
    "tensors that overlap": Bad(
        entry_with(lambda entry: entry.update(data_offsets=[at - 2 for at in entry["data_offsets"]])), "an overlap"
    ),
    "a gap between tensors": Bad(
        entry_with(lambda entry: entry.update(data_offsets=[at + 2 for at in entry["data_offsets"]])), "a gap"
    ),
    "offsets beyond the file": Bad(
        entry_with(lambda entry: entry.update(data_offsets=[at + 2**40 for at in entry["data_offsets"]])), WEIGHTS
    ),
    "a shape of other bytes": Bad(entry_with(lambda entry: entry.update(shape=[9, 256])), "bytes"),
    "a shape that overflows": Bad(
        entry_with(lambda entry: entry.update(shape=[2**62, 2**62])), "the tensor's true shape"
    ),
    "a size below 0": Bad(entry_with(lambda entry: entry.update(shape=[-8, -256])), "whole numbers"),
    "a size with a fraction": Bad(entry_with(lambda entry: entry.update(shape=[8.0, 256])), "whole numbers"),
    "a type of twice the bytes": Bad(retagged("BF16", "F32"), "bytes"),
    "a type that nobody knows": Bad(retagged("BF16", "BF17"), "one of BOOL"),
    "whole numbers by their type": Bad(retagged("BF16", "I16"), "F32, F16 or BF16"),
    "a path as a tensor's name": Bad(header_with(lambda text: text.replace(Q0, "../../" + Q0, 1)), "letters, digits"),
    "a NUL in a tensor's name": Bad(header_with(lambda text: text.replace(Q0, Q0 + "\\u0000", 1)), "letters, digits"),
    "a tensor's name without end": Bad(header_with(lambda text: text.replace(Q0, Q0 + "x" * 600, 1)), "1 to 512"),
    "metadata of numbers": Bad(
        header_with(lambda text: json.dumps(json.loads(text) | {"__metadata__": {"a": 1}})), "object of text"
    ),
    "too many tensors": Bad(header_with(crowded), "at most 50000"),
}

# -- the tensors ---------------------------------------------------------------------------------------------


def tensors_with(change: Callable[[Tensors], Tensors]) -> Spoil:
    def spoil(directory: Path) -> None:
        tensors = change(dict(load_file(directory / WEIGHTS)))
        save_file({name: t.contiguous() for name, t in tensors.items()}, directory / WEIGHTS)

    return spoil


def of_side(side: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    return tensors_with(lambda t: {name: change(v) if f"lora_{side}." in name else v for name, v in t.items()})


def each(change: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    return tensors_with(lambda t: {name: change(v) for name, v in t.items()})


def renamed(old: str, new: str) -> Spoil:
    return tensors_with(lambda t: {name.replace(old, new): v for name, v in t.items()})


def beside(name: str, *shape: int) -> Spoil:
    return tensors_with(lambda t: {**t, name: torch.ones(shape)})


def without(part: str) -> Spoil:
    return tensors_with(lambda t: {name: v for name, v in t.items() if part not in name})


def times(factor: float) -> Callable[[Tensors], Tensors]:
    return lambda t: {name: v.float() * factor for name, v in t.items()}


def one_number(value: float, which: int = 0) -> Spoil:
    def change(tensors: Tensors) -> Tensors:
        tensors[sorted(tensors)[which]].view(-1)[-1] = value
        return tensors

    return tensors_with(change)


def swapped(tensors: Tensors) -> Tensors:
    other = {"lora_A.": "lora_B.", "lora_B.": "lora_A."}
    return {re.sub(r"lora_[AB]\.", lambda side: other[side[0]], name): v for name, v in tensors.items()}


def of_width(width: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda t: t[:, :width] if t.shape[1] > width else torch.cat([t, t], 1)


def deeper(tensors: Tensors) -> Tensors:
    extra = {name.replace("layers.0.", "layers.99."): t.clone() for name, t in tensors.items() if "layers.0." in name}
    return tensors | extra


def of_two_adapters(tensors: Tensors) -> Tensors:
    named = {name: name.replace(".weight", f".{'one' if 'layers.0' in name else 'two'}.weight") for name in tensors}
    return {named[name]: v for name, v in tensors.items()}


TENSORS = {
    "no tensors": Bad(tensors_with(lambda t: {}), "lora_A"),
    "missing lora_B": Bad(without("lora_B"), "lora_B"),
    "missing lora_A": Bad(without("lora_A"), "lora_A"),
    "one factor missing": Bad(without(f"{Q0}.lora_A"), "both factors"),
    "A and B by each other's names": Bad(tensors_with(swapped), "shape"),
    "A transposed": Bad(of_side("A", lambda t: t.T), "shape"),
    "B transposed": Bad(of_side("B", lambda t: t.T), "shape"),
    "A in one dimension": Bad(of_side("A", torch.flatten), "shape"),
    "B in four dimensions": Bad(of_side("B", lambda t: t[:, :, None, None]), "shape"),
    "A without dimensions": Bad(of_side("A", lambda t: t[0, 0]), "shape"),
    "A without rows": Bad(of_side("A", lambda t: t[:0]), "shape"),
    "factors of rank 0": Bad(each(lambda t: t[:0] if t.shape[0] == 8 else t[:, :0]), "shape"),
    "larger base": Bad(of_side("A", of_width(10**6)), "lora_A"),
    "smaller base": Bad(of_side("A", of_width(64)), "lora_A"),
    "deeper base": Bad(tensors_with(deeper), "layers.99"),
    "unknown target": Bad(renamed("q_proj", "x_proj"), "x_proj"),
    "another family's modules": Bad(renamed("self_attn.q_proj", "attention.query"), "attention.query"),
    "a layer that is no number": Bad(renamed("layers.0", "layers.zero"), "layers.zero"),
    "the tied head": Bad(
        lambda d: (
            beside(f"{PREFIX}lm_head.lora_A.weight", 8, 256)(d),
            beside(f"{PREFIX}lm_head.lora_B.weight", 4096, 8)(d),
        ),
        "embeddings are tied",
    ),
    "a resized vocabulary": Bad(beside(f"{PREFIX}model.embed_tokens.weight", 4100, 256), "without adding tokens"),
    "key prefix mismatch": Bad(renamed("base_model.model.", "encoder."), "encoder."),
    "one tensor under two names": Bad(beside(f"{Q0}.lora_A.default.weight", 8, 256), "one adapter"),
    "two adapters in one file": Bad(tensors_with(of_two_adapters), "one adapter"),
    "another library's names": Bad(renamed("lora_A", "lora_down"), "lora_down"),
    "LoHa under a LoRA config": Bad(renamed("lora_A.weight", "hada_w1_a"), "hada_w1_a"),
    "LoKr under a LoRA config": Bad(renamed("lora_A.weight", "lokr_w1"), "lokr_w1"),
    "DoRA's magnitudes under a LoRA config": Bad(beside(f"{Q0}.lora_magnitude_vector", 256), "this is DoRA"),
    "a bias beside the factors": Bad(beside(f"{Q0}.lora_B.bias", 256), "bias"),
    "a full copy of a module": Bad(beside(f"{Q0}.weight", 256, 256), "q_proj.weight"),
    "int8 tensors": Bad(each(lambda t: t.to(torch.int8)), "I8"),
    "bytes as tensors": Bad(each(lambda t: t.to(torch.uint8)), "U8"),
    "truths as tensors": Bad(each(lambda t: t > 0), "BOOL"),
    "float8 tensors": Bad(each(lambda t: t.to(torch.float8_e4m3fn)), "F8_E4M3"),
    "float64 tensors": Bad(each(lambda t: t.double()), "F64"),
    "NaN": Bad(one_number(float("nan")), "NaN"),
    "NaN in the last of many": Bad(one_number(float("nan"), -1), "NaN"),
    "infinite": Bad(one_number(float("inf")), "lora_"),
    "infinite below 0": Bad(one_number(float("-inf"), 20), "infinity"),
    "1e30": Bad(one_number(1e30), "lora_"),
    "1e38 in float32": Bad(each(lambda t: t.float().clamp(-1, 1) * 1e38), "would overflow"),
    "inert": Bad(each(lambda t: t * 0), "zero"),
    "A of zeros": Bad(of_side("A", lambda t: t * 0), "only zeros"),
    "denormal numbers only": Bad(each(lambda t: torch.full_like(t, 1e-40)), "the base model's own scores", "engine"),
    "finite and too large for the engine": Bad(tensors_with(times(1e4)), "overflow", "engine"),
    "larger than its engine's precision": Bad(tensors_with(times(10)), "served otherwise than PEFT", "engine"),
}

# -- the files -----------------------------------------------------------------------------------------------


def with_file(name: str, content: bytes = b"x") -> Spoil:
    return lambda directory: (directory / name).write_bytes(content)


def pickled(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    (directory / "adapter_model.bin").write_bytes(PICKLE)


FILES = {
    "pickle": Bad(pickled, "adapter_model.bin", "upload"),
    "a pickle by the weights' name": Bad(bytes_with(lambda _: PICKLE * 20), "safetensors"),
    "optimizer state": Bad(with_file("optimizer.pt"), "optimizer.pt", "directory"),
    "code": Bad(with_file("modeling.py"), "modeling.py", "directory"),
    "a tokenizer": Bad(with_file("tokenizer.json"), "tokenizer.json", "directory"),
    "no config": Bad(lambda d: (d / CONFIG).unlink(), CONFIG),
    "no weights": Bad(lambda d: (d / WEIGHTS).unlink(), WEIGHTS),
    "a Git LFS pointer": Bad(bytes_with(lambda _: b"version https://git-lfs.github.com/spec/v1\n"), "safetensors file"),
    "compressed weights": Bad(bytes_with(gzip.compress), "safetensors file"),
    "a GGUF file": Bad(bytes_with(lambda b: b"GGUF\x03\0\0\0" + b), "safetensors file"),
}

BAD = {**CONFIGS, **HEADERS, **TENSORS, **FILES}
