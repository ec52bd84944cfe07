"""Every kind of adapter that PEFT makes, over HTTP: served as PEFT computes it in float32, or refused with a reason.

What is found must be what docs/adapters.md says; ``pytest tests/acceptance/test_kinds.py --write-docs`` writes it anew.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoModelForCausalLM, AutoTokenizer

import embedded
from adapters.base_model import BaseModel
from adapters.checks.canonicalizer import canonicalize
from adapters.checks.inspection import AdapterLimits
from adapters.compile.compiler import EXACT_ERROR, MAX_ERROR
from adapters.storage.manifest import FILES, INITIAL, names_in
from tests.acceptance.kinds_table import Table, differences, read, write
from tests.adapters.compile.spoiling import (
    SPELLINGS,
    config_of,
    edit_config,
    edit_tensors,
    on_the_cpu,
    train,
    with_loftq,
)

TOLERANCE = 3.0
"""× the floor, the base model's own mean distance to PEFT: an adapter's matrices round to bfloat16 as the base's do."""
EFFECT = 0.3
"""The mean distance from the base, at least, of every adapter that is made here: about 30 floors."""
SHARE_LOST = 0.5
"""Of its effect, at most, by an adapter that was cut at a rank that somebody asked for."""
MAX_STEPS = 24
ROUGH, ROUGH_EFFECT = 3, 0.15
"""So many prompts are asked first, and so little of an effect on them is none on all."""
REFUSED_BY = 0.15


@dataclass(frozen=True)
class Kind:
    """An adapter to make: PEFT's type and fields, what is done to its files, and how it is sent."""

    peft: str = "LORA"
    fields: Mapping[str, Any] = field(default_factory=dict)
    spoil: Callable[[Path], None] = lambda _: None
    disguise: Callable[[Path], None] = lambda _: None
    """Done to what is sent alone, for changes that other tools read and PEFT does not."""
    query: Mapping[str, Any] = field(default_factory=dict)
    needed: str | None = None
    """A part of what the refusal says is needed; None: it is served."""
    is_converted: bool = False
    """Saved by PEFT as the difference to its initial adapter."""
    is_started: bool = False
    """Sent with its initial adapter."""

    def config(self) -> Any:
        if self.peft == "LORA":
            fields = {"r": 8, "lora_alpha": 16, **self.fields}
            loftq = fields.pop("loftq", None)
            config = config_of(self.peft, fields)
            return config if loftq is None else with_loftq(config, **loftq)
        if "num_virtual_tokens" in self.fields:
            return PEFT_TYPE_TO_CONFIG_MAPPING[self.peft](task_type="CAUSAL_LM", **self.fields)
        return config_of(self.peft, dict(self.fields))


def tensors_as(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return lambda d: edit_tensors(d, lambda tensors: {name: change(name, tensor) for name, tensor in tensors.items()})


def stored_in(dtype: torch.dtype) -> Callable[[Path], None]:
    return tensors_as(lambda _, tensor: tensor.to(dtype))


def spelt(tool: str) -> Callable[[Path], None]:
    spelling = SPELLINGS[tool]
    return lambda d: edit_tensors(d, lambda tensors: {spelling(name): tensor for name, tensor in tensors.items()})


def renamed(directory: Path) -> None:
    unknown = ("model.model.layers", "transformer.blocks.layers")
    edit_tensors(directory, lambda tensors: {name.replace(*unknown): tensor for name, tensor in tensors.items()})


def with_fields(**fields: Any) -> Callable[[Path], None]:
    return lambda d: edit_config(d, **fields)


def repeated(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:12].repeat(2, 1) if "lora_A" in name else tensor


def half_zero(name: str, tensor: torch.Tensor) -> torch.Tensor:
    kept = torch.arange(tensor.shape[0 if "lora_A" in name else 1]) < 4
    return tensor * (kept[:, None] if "lora_A" in name else kept)


def falling(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor * torch.tensor([1.0, 0.3, 0.1, 0.012, 0.004]) if name.endswith("w1_a") else tensor


def canonical(directory: Path) -> None:
    limits = AdapterLimits(max_rank=16, max_bytes=1 << 30)
    made = directory.with_name(f"{directory.name}-canonical")
    canonicalize(directory, made, BaseModel.from_directory(embedded.BASE, "base"), limits)
    for name in FILES:
        shutil.copy(made / name, directory)


def with_copies(directory: Path) -> None:
    head = AutoModelForCausalLM.from_pretrained(embedded.BASE).lm_head.weight.detach().clone()
    edit_config(directory, modules_to_save=["lm_head"])
    edit_tensors(directory, lambda t: t | {"base_model.model.lm_head.modules_to_save.weight": head})


SHOT = {"num_virtual_tokens": 4}
ADALORA = {"init_r": 6, "target_r": 4, "total_step": 10, "tinit": 1, "tfinal": 1}
ALL_LINEAR = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
CUT = {"compress_to": 16}
NF4, INT8 = {"bits": 4, "iterations": 1}, {"bits": 8, "iterations": 1}
LOSS, NO_WEIGHTS = "--compress-to 16", "a method that changes weights alone"
CONVERT = "path_initial_model_for_weight_conversion"

KINDS: dict[str, Kind] = {
    "LoRA": Kind(),
    "LoRA in canonical form": Kind(disguise=canonical),
    "LoRA on every linear layer": Kind(fields=ALL_LINEAR),
    "LoRA on q_proj and v_proj": Kind(fields={"target_modules": ["q_proj", "v_proj"]}),
    "LoRA on two of the layers": Kind(fields={"layers_to_transform": [1, 2]}),
    "LoRA, modules by a regex": Kind(fields={"target_modules": r".*layers\.(0|2)\..*(q|v|up)_proj"}),
    "LoRA of rank 1": Kind(fields={"r": 1, "lora_alpha": 2}),
    "LoRA padded with zeros": Kind(spoil=tensors_as(half_zero)),
    "LoRA in float16": Kind(spoil=stored_in(torch.float16)),
    "LoRA in bfloat16": Kind(spoil=stored_in(torch.bfloat16)),
    "LoRA with rank_pattern": Kind(fields={"rank_pattern": {"v_proj": 5}}),
    "LoRA with alpha_pattern": Kind(fields={"alpha_pattern": {"v_proj": 40, "layers.1.mlp.down_proj": 6}}),
    "LoRA with both patterns": Kind(fields={"rank_pattern": {"v_proj": 5}, "alpha_pattern": {"q_proj": 40}}),
    "rsLoRA": Kind(fields={"use_rslora": True}),
    "rsLoRA with both patterns": Kind(
        fields={"use_rslora": True, "rank_pattern": {"v_proj": 11}, "alpha_pattern": {"q_proj": 40}}
    ),
    "LoRA, names with `.default.`": Kind(disguise=spelt("the adapter's name")),
    "LoRA, names without `base_model.model.`": Kind(disguise=spelt("a prefix left out")),
    "LoRA, names with the prefix twice": Kind(disguise=spelt("a prefix twice")),
    "LoRA, names of the bare model": Kind(disguise=spelt("the bare model")),
    "LoRA, names of a torch.compile'd model": Kind(disguise=spelt("torch.compile")),
    "LoRA, names under FSDP": Kind(disguise=spelt("FSDP")),
    "LoRA, names of a multimodal wrapper": Kind(disguise=spelt("a multimodal wrapper")),
    "LoRA, names of an older multimodal wrapper": Kind(disguise=spelt("an older multimodal wrapper")),
    "LoRA, names of a tool that nobody knows": Kind(disguise=renamed, needed="a linear layer of embedded-base"),
    "LoRA, config of Unsloth": Kind(
        spoil=with_fields(auto_mapping={"base_model_class": "Qwen3ForCausalLM", "unsloth_fixed": True})
    ),
    "LoRA with an unchanged copy of lm_head, compiled": Kind(disguise=with_copies, query=CUT),
    "LoRA of rank 24, of which 12 are used, compiled": Kind(fields={"r": 24}, spoil=tensors_as(repeated), query=CUT),
    "LoRA of rank 24": Kind(fields={"r": 24}, needed="--max-lora-rank 32"),
    "LoRA of rank 24, cut": Kind(fields={"r": 24}, query=CUT),
    "PiSSA": Kind(fields={"init_lora_weights": "pissa"}, needed=CONVERT),
    "PiSSA, converted": Kind(fields={"init_lora_weights": "pissa"}, is_converted=True),
    "OLoRA": Kind(fields={"init_lora_weights": "olora"}, needed=CONVERT),
    "OLoRA, converted": Kind(fields={"init_lora_weights": "olora"}, is_converted=True),
    "PiSSA, with its initial adapter": Kind(fields={"init_lora_weights": "pissa"}, is_started=True),
    "OLoRA, with its initial adapter": Kind(fields={"init_lora_weights": "olora"}, is_started=True),
    "LoftQ": Kind(spoil=with_fields(init_lora_weights="loftq"), needed="init_lora_weights=true"),
    "LoftQ, with its initial adapter": Kind(fields={"loftq": NF4}, is_started=True, needed=LOSS),
    "LoftQ, with its initial adapter, cut": Kind(fields={"loftq": NF4}, is_started=True, query=CUT),
    "LoftQ in eight bits, with its initial adapter, cut": Kind(fields={"loftq": INT8}, is_started=True, query=CUT),
    "DoRA": Kind(fields={"use_dora": True}, needed="--compress-to R"),
    "DoRA, cut": Kind(fields={"use_dora": True}, query=CUT),
    "LoRA with lora_bias": Kind(fields={"lora_bias": True}, needed="lora_bias=False"),
    "LoRA with bias": Kind(spoil=with_fields(bias="all"), needed="none"),
    "LoRA with modules_to_save": Kind(
        fields={"modules_to_save": ["norm"]}, needed="train a LoRA on these modules instead"
    ),
    "AdaLoRA": Kind("ADALORA", ADALORA),
    "LoHa": Kind("LOHA", {"r": 3, "alpha": 5}),
    "LoHa of rank 25, nearly all of it in 16": Kind("LOHA", {"r": 5, "alpha": 5}, spoil=tensors_as(falling)),
    "LoKr": Kind("LOKR", {"r": 4, "alpha": 5}, needed=LOSS),
    "LoKr, both parts factored": Kind("LOKR", {"r": 2, "decompose_both": True, "decompose_factor": 8}),
    "VeRA": Kind("VERA", {"r": 16}),
    "VBLoRA": Kind("VBLORA", {"r": 4, "num_vectors": 32, "vector_length": 64}),
    "HRA": Kind("HRA", {"r": 8, **ALL_LINEAR}),
    "MiSS": Kind("MISS", {"r": 8}),
    "GraLoRA": Kind("GRALORA", {"r": 8}),
    "DeLoRA": Kind("DELORA", {"r": 8, "delora_lambda": 30}),
    "DEFT": Kind("DEFT", {"r": 8}),
    "FourierFT": Kind("FOURIERFT", {"n_frequency": 8, "scaling": 2000}),
    "PEANuT": Kind("PEANUT", {"r": 16}),
    "IA3": Kind("IA3", {"feedforward_modules": ["down_proj"]}, needed=LOSS),
    "OFT": Kind("OFT", {"oft_block_size": 32}, needed=LOSS),
    "RandLora": Kind("RANDLORA", {"r": 16}, needed=LOSS),
    "SHiRA": Kind("SHIRA", {"r": 2}, needed=LOSS),
    "prompt tuning": Kind("PROMPT_TUNING", SHOT, needed=NO_WEIGHTS),
    "prefix tuning": Kind("PREFIX_TUNING", SHOT, needed=NO_WEIGHTS),
    "LN tuning": Kind("LN_TUNING", {"target_modules": ["input_layernorm"]}, needed=NO_WEIGHTS),
    "trainable tokens": Kind(
        "TRAINABLE_TOKENS", {"target_modules": ["embed_tokens"], "token_indices": [1, 2]}, needed=NO_WEIGHTS
    ),
}


class Peft:
    """The base model and its adapters in float32 on the CPU, as PEFT computes them."""

    def __init__(self) -> None:
        self._base = AutoModelForCausalLM.from_pretrained(embedded.BASE, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(embedded.BASE)
        files = sorted(embedded.DATA.glob("*/heldout.jsonl"))
        rows = [json.loads(line)["messages"] for file in files for line in file.read_text().splitlines()[:2]]
        self.prompts = [tokenizer.apply_chat_template(row, return_dict=False) for row in rows]
        self.base_scores = self._scores(self._base)

    def scores(self, adapter: Path) -> torch.Tensor:
        """Every token's log-probability given those before it; the first of a prompt has none."""
        return self._scores(PeftModel.from_pretrained(copy.deepcopy(self._base), adapter).eval())

    def make(self, kind: Kind, out: Path, by: float | None = None) -> torch.Tensor | None:
        """Write an adapter, and return its scores. It moves as far from its start as ``by``, or until it has an effect.

        Without scores where ``by`` is given.
        """
        torch.manual_seed(0)
        config = kind.config()
        with on_the_cpu():
            model = get_peft_model(copy.deepcopy(self._base), config).eval()
        if kind.is_started:
            model.save_pretrained(out / INITIAL)
        if kind.is_converted:
            start, config.init_lora_weights = config.init_lora_weights, True
            model.save_pretrained(out / "first")
            config.init_lora_weights = start
        starts = [(weights, weights.detach().clone()) for weights in model.parameters() if weights.requires_grad]
        for step in range(MAX_STEPS):
            for weights, begun in starts:
                weights.data.copy_(begun)
            train(model, 0.05 * 1.5**step if by is None else by)
            if by is None and self._effect(self._scores(model, ROUGH)) < ROUGH_EFFECT:
                continue
            first = str(out / "first") if kind.is_converted else None
            model.save_pretrained(out, path_initial_model_for_weight_conversion=first)
            kind.spoil(out)
            if by is not None:
                return None
            # what was started on a changed base is itself nowhere but here: its file alone is for another one
            scores = self._scores(model) if kind.is_started else self.scores(out)
            if self._effect(scores) >= EFFECT:
                return scores
        raise AssertionError("no effect on the base model")

    def _effect(self, scores: torch.Tensor) -> float:
        return float((scores - self.base_scores[: len(scores)]).abs().mean())

    @torch.no_grad()
    def _scores(self, model: torch.nn.Module, count: int | None = None) -> torch.Tensor:
        scores = []
        for prompt in self.prompts[:count]:
            ids = torch.tensor([prompt])
            likely = model(ids).logits[0, :-1].log_softmax(-1)
            scores.append(likely.gather(1, ids[0, 1:, None])[:, 0])
        return torch.cat(scores)


@dataclass(frozen=True)
class Found:
    """What became of an adapter: scores in PEFT and served, or why it was refused."""

    status: int
    report: Mapping[str, Any] = field(default_factory=dict)
    peft: torch.Tensor | None = None
    served: torch.Tensor | None = None
    faults: tuple[Mapping[str, str], ...] = ()

    @property
    def compiled(self) -> Mapping[str, Any]:
        return self.report.get("compile") or {"method": "not at all", "error": 0.0, "rank": self.report["rank"]}


@pytest.fixture(scope="module")
def peft() -> Peft:
    return Peft()


@pytest.fixture
def served_scores(http, peft) -> Callable[[str], Awaitable[torch.Tensor]]:
    async def of(model: str, prompt: list[int]) -> list[float]:
        body = {"model": model, "prompt": prompt, "max_tokens": 1, "prompt_logprobs": 0}
        entries = (await http.post("/v1/completions", json=body)).json()["choices"][0]["prompt_logprobs"]
        return [entry[str(token)]["logprob"] for entry, token in zip(entries[1:], prompt[1:], strict=True)]

    async def score(model: str) -> torch.Tensor:
        return torch.tensor(list(chain.from_iterable([await of(model, prompt) for prompt in peft.prompts])))

    return score


@pytest.fixture(scope="module")
def known() -> dict[str, Found]:
    """What was found of kinds that were asked for before."""
    return {}


@pytest.fixture(scope="module")
def adapters() -> dict[Any, tuple[Path, torch.Tensor | None]]:
    """What was made before, with its scores."""
    return {}


@pytest.fixture
def found(peft, push, http, served_scores, known, adapters, tmp_path_factory) -> Callable[[str], Awaitable[Found]]:
    """Make an adapter of a kind and publish it."""

    def made(kind: Kind) -> tuple[Path, torch.Tensor | None]:
        """The adapter's directory, and its scores where it is to be served: trained until it has an effect."""
        how = (kind.is_converted, kind.is_started, kind.needed is None)
        alike = (kind.peft, json.dumps(kind.fields), kind.spoil, *how)
        if alike not in adapters:
            directory = tmp_path_factory.mktemp("kind")
            adapters[alike] = directory, peft.make(kind, directory, by=None if kind.needed is None else REFUSED_BY)
        return adapters[alike]

    async def publish(kind: Kind) -> Found:
        directory, scores = made(kind)
        sent = tmp_path_factory.mktemp("sent")
        for name in names_in(directory):
            (sent / name).parent.mkdir(exist_ok=True)
            shutil.copy(directory / name, sent / name)
        kind.disguise(sent)
        response = await push("of-a-kind", sent, **kind.query)
        if response.status_code != 201:
            return Found(response.status_code, faults=tuple(response.json()["error"]["faults"]))
        served = await served_scores(response.json()["id"])
        await http.delete("/v1/adapters/of-a-kind")
        return Found(201, response.json()["report"], scores, served)

    async def found(name: str) -> Found:
        if name not in known:
            known[name] = await publish(KINDS[name])
        return known[name]

    return found


def apart(these: torch.Tensor, those: torch.Tensor) -> torch.Tensor:
    return (these - those).abs()


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.needed is None])
async def test_an_adapter_is_served_as_peft_computes_it(name, found, peft, served_scores):
    adapter = await found(name)
    assert adapter.status == 201, adapter.faults
    effect = apart(adapter.peft, peft.base_scores).mean()
    distance = apart(adapter.peft, adapter.served).mean()
    if adapter.compiled["error"] > MAX_ERROR:
        assert "compress_to" in KINDS[name].query
        assert distance < SHARE_LOST * effect
    else:
        assert distance <= TOLERANCE * apart(await served_scores("embedded-base"), peft.base_scores).mean()


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.needed is not None])
async def test_an_adapter_that_no_plain_lora_can_be_is_refused_with_what_is_needed(name, found):
    adapter = await found(name)
    assert adapter.status == 400
    assert any(KINDS[name].needed in fault["needed"] for fault in adapter.faults), adapter.faults


async def test_the_document_says_what_was_found(found, peft, served_scores, request):
    adapters = {name: await found(name) for name in KINDS}
    floor = apart(await served_scores("embedded-base"), peft.base_scores)
    nothing = ("none: the base model", "", "", "", f"{floor.mean():.4f}", f"{floor.max():.4f}", "")
    served = [served_row(name, adapter, peft) for name, adapter in adapters.items() if adapter.status == 201]
    refused = [
        (name, fault["where"], fault["found"], fault["needed"])
        for name, adapter in adapters.items()
        for fault in adapter.faults[:1]
    ]
    tables = [Table.of("Served", [nothing, *served]), Table.of("Refused", refused)]
    if request.config.getoption("--write-docs"):
        write(tables)
    assert differences(read(), tables) == []


def served_row(name: str, adapter: Found, peft: Peft) -> tuple[str, ...]:
    compiled, distance = adapter.compiled, apart(adapter.peft, adapter.served)
    loss = f"{compiled['error'] * 100:.1f} %" if compiled["error"] > EXACT_ERROR else "none"
    effect = apart(adapter.peft, peft.base_scores).mean()
    numbers = [f"{number:.4f}" for number in (distance.mean(), distance.max(), effect)]
    return (name, compiled["method"], str(compiled["rank"]), loss, *numbers)
