"""adapter_config.json under mutation: refused in our words, or admitted, and then PEFT takes it and adapts alike."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from peft.tuners.lora import LoraLayer
from torch import nn

from adapters.base_model import BaseModel
from adapters.checks.inspection import AdapterLimits, inspect_adapter
from adapters.errors import AdapterRefused
from adapters.lora.peft_config import PeftConfig
from tests.adapters.checks.conftest import MakeAdapter

CONFIG = "adapter_config.json"
LAYERS, WIDTH = 3, 4
PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
fuzzed = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

NUMBERS = [0, 1, 2, 8, 16, -1, 8.0, 0.5, 1e-9, 1e999, -0.0, 2**31, 2**63, 65_536, 65_537]
WORDS = "none all lora_only all-linear ALL-LINEAR q_proj layers gaussian pissa eva loftq CAUSAL_LM SEQ_CLS LORA LOHA"
ODD = ["", "8", ".*", ".*_proj", r".*\.[02]\..*", "(", "*", "\0", "\ud800", "é"]
NAMES = "q_proj v_proj up_proj proj mlp self_attn.q_proj layers.1.mlp.up_proj model.layers.2.self_attn.v_proj ."
PATTERNS = (
    "q_proj v_proj _proj layers.1 layers.1.self_attn.q_proj self_attn q_proj|v_proj ^model.layers.0.mlp.up_proj "
    r"up_proj$ model\.layers\.[01]\..* .* layers.1?.* model (q_proj) (?:q|v)_proj a** [0- | ^ $"
)
scalars = st.sampled_from([None, True, False, *NUMBERS, *WORDS.split(), *ODD])
patterns = st.sampled_from(["", *PATTERNS.split()])
names = st.sampled_from(["", *NAMES.split()])
values = st.recursive(
    scalars | patterns | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(patterns | names, inner, max_size=2),
    max_leaves=4,
)
likely = {
    "r": st.sampled_from([1, 4, 8, 16, True, 8.0, "8", 0, -1, 2**40]),
    "lora_alpha": st.sampled_from([1, 0.5, 16.0, 1e-300, 0, -1, "16", 1e999, 2**70, True]),
    "target_modules": st.lists(names, max_size=3) | patterns | st.just("all-linear"),
    "exclude_modules": st.lists(names, max_size=2) | patterns,
    "rank_pattern": st.dictionaries(patterns, st.sampled_from([1, 2, 8, 0, True, 2.0]), max_size=3),
    "alpha_pattern": st.dictionaries(patterns, st.sampled_from([1, 0.5, 32, -1, True, 1e999]), max_size=3),
    "use_rslora": st.sampled_from([True, False, None, 1, "yes"]),
    "layers_to_transform": st.lists(st.integers(-1, 4), max_size=3) | st.integers(-1, 4),
    "layers_pattern": st.sampled_from(["layers", "h", "model", "", ["layers"], ["h", "layers"], [], "layer."]),
    "lora_dropout": st.sampled_from([0, 0.0, 0.1, 1, 1.0, 1.5, -1, "0.1", True, [0.1]]),
    "init_lora_weights": st.sampled_from([True, False, "gaussian", "eva", "orthogonal", "pissa", 1, "", []]),
}
STEERING = {"corda_config", "eva_config", "lora_ga_config", "velora_config"}
EMBEDDINGS = {"ensure_weight_tying", "trainable_token_indices"}
MOOT = frozenset(STEERING | EMBEDDINGS)
"""Of what steered the training PEFT checks the contents too; and for the others it wants a model with embeddings."""
fields = st.sampled_from([*sorted(PeftConfig.model_fields.keys() - MOOT), "use_magic", "", "__class__", "\0"])


@st.composite
def configs(draw: st.DrawFn) -> dict:
    config = dict(PLAIN)
    for field in draw(st.lists(st.sampled_from(sorted(likely)), max_size=3)):
        config[field] = draw(likely[field])
    for field in draw(st.lists(fields, max_size=2)):
        config[field] = draw(values)
    for field in draw(st.lists(st.sampled_from(sorted(PLAIN)), max_size=1)) if draw(st.integers(0, 7)) == 0 else ():
        del config[field]
    return config


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """A config as bytes, some of them replaced now and then."""
    raw = bytearray(json.dumps(draw(configs())).encode())
    if draw(st.integers(0, 3)) == 0:
        for _ in range(draw(st.integers(1, 3))):
            place = draw(st.integers(0, len(raw) - 1))
            raw[place : place + draw(st.integers(0, 2))] = draw(
                st.sampled_from(
                    [b"", b'"', b"{", b"}", b",", b"9" * 400, b"\xff", b"\\u0000", b"NaN", b"1e9", b"[" * 2000]
                )
            )
    return bytes(raw)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)


class Feed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up_proj = nn.Linear(WIDTH, WIDTH)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(), Feed()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()


with torch.device("meta"):
    EVERY = {name: isinstance(module, nn.Linear) for name, module in Tiny().named_modules() if name}
MODULES = [name for name, is_linear in EVERY.items() if is_linear]


def read_by_us(raw: bytes) -> PeftConfig | None:
    try:
        config = PeftConfig.parse(raw)
    except AdapterRefused:
        return None
    return None if list(config.unservable()) else config


@pytest.mark.filterwarnings("ignore")
@fuzzed
@given(texts())
@example(json.dumps(PLAIN | {"target_modules": "all-linear"}).encode())
def test_what_we_admit_peft_takes_and_gives_each_module_the_same(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    config = read_by_us(raw)
    if config is None:
        return
    try:
        config = config.settled(EVERY)
        ours = config.targeted(EVERY)
    except AdapterRefused:
        return
    if not ours or not ours <= {*MODULES}:
        return  # PEFT refuses to adapt nothing, or what is not linear; we look at the tensors
    directory = tmp_path_factory.getbasetemp()
    # PEFT stumbles over fields that it does not know, also where they are empty, and over null for some of its own.
    meant = {field: value for field, value in json.loads(raw).items() if field in PeftConfig.model_fields}
    stated = {field: value for field, value in meant.items() if value is not None}
    (directory / CONFIG).write_text(json.dumps(stated))
    theirs = peft.LoraConfig.from_pretrained(directory)
    assert isinstance(theirs, peft.LoraConfig)
    theirs.init_lora_weights = False  # what loading overwrites anyway; some starts need another rank, or data
    with torch.device("meta"):
        adapted = peft.inject_adapter_in_model(theirs, Tiny(), low_cpu_mem_usage=True)
    layers = {name: layer for name, layer in adapted.named_modules() if isinstance(layer, LoraLayer)}
    assert layers.keys() == ours
    for name, layer in layers.items():
        rank = config.rank_of(name)
        assert layer.r["default"] == rank
        assert layer.scaling["default"] == pytest.approx(
            config.alpha_of(name) / (rank**0.5 if config.use_rslora else rank)
        )


@fuzzed
@given(texts())
def test_the_inspection_answers_with_a_report_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, plain: MakeAdapter, tiny_base: BaseModel, raw: bytes
) -> None:
    adapter = plain()
    adapter.extra[CONFIG] = raw
    directory = adapter.write(tmp_path_factory.getbasetemp() / "mutated")
    try:
        inspect_adapter(directory, tiny_base, AdapterLimits(max_rank=16, max_bytes=1 << 20))
    except AdapterRefused as refusal:
        refused = refusal
    else:
        return
    assert refused.message.isprintable()
    json.dumps(refused.details, ensure_ascii=False).encode()
