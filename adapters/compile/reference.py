"""PEFT's scores of an adapter: ``python -m adapters.compile.reference BASE``, a process that answers line by line.

In:  ``{"adapter": DIRECTORY, "prompts": [[token id, …], …]}``
Out: ``{"base": [[score, …], …], "adapter": [[score, …], …]}``, or ``{"refused": REASON}`` where PEFT does not load it.

A score is the natural log-probability of a token, given those before it; the first token has none. All arithmetic is
in float32, on the CPU, on the threads that OMP_NUM_THREADS says. The base is loaded once, its scores are kept.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from adapters.errors import SafetensorsMalformed
from adapters.lora.tensor_names import PREFIX
from adapters.processes.line_process import serve_lines
from adapters.storage.manifest import WEIGHTS_FILE
from adapters.storage.safetensors_header import read_header

COPY: Final = ".base_layer.weight"
"""The end of the name under which PEFT saves a copy of an embedding beside a LoRA on it."""

Prompts = list[list[int]]
Scores = list[list[float]]


class ReferenceModel:
    """Scores prompts with the base model in ``directory``, and with one adapter on it at a time."""

    def __init__(self, directory: str) -> None:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self._base = model.eval()
        self._cached: tuple[Prompts, Scores] | None = None

    def base_scores(self, prompts: Prompts) -> Scores:
        if self._cached is None or self._cached[0] != prompts:
            self._cached = prompts, _scores(self._base, prompts)
        return self._cached[1]

    def adapter_scores(self, directory: str, prompts: Prompts) -> Scores:
        """Return the scores with the adapter in ``directory``; the base is unchanged afterwards.

        Raises:
            ValueError, RuntimeError, TypeError, KeyError, OSError: PEFT or torch cannot load the adapter.
        """
        kept = self._overwritten(Path(directory))
        try:
            adapted = PeftModel.from_pretrained(self._base, directory).eval()
            try:
                return _scores(adapted, prompts)
            finally:
                adapted.unload()
        finally:
            with torch.no_grad():
                for name, weight in kept.items():
                    self._base.get_parameter(name).copy_(weight)

    def _overwritten(self, directory: Path) -> dict[str, Tensor]:
        """Return copies of the base's weights that the adapter has copies of too: PEFT loads those over the base's."""
        tensors = read_header(directory / WEIGHTS_FILE).tensors
        copied = {name.removeprefix(PREFIX).removesuffix(COPY) for name in tensors if name.endswith(COPY)}
        weights = {f"{module}.weight" for module in copied}
        return {name: weight.detach().clone() for name, weight in self._base.named_parameters() if name in weights}


def _scores(model: Any, prompts: Prompts) -> Scores:
    """Score all prompts in one batch; shorter ones are padded on the right, under the attention mask."""
    longest = max(map(len, prompts))
    ids = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts])
    mask = torch.tensor([[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in prompts])
    with torch.inference_mode():
        logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    likely = torch.log_softmax(logits[:, :-1].float(), dim=-1).gather(2, ids[:, 1:, None]).squeeze(2)
    return [row[: len(prompt) - 1].tolist() for row, prompt in zip(likely, prompts, strict=True)]


def _answer(model: ReferenceModel, question: dict[str, Any]) -> dict[str, Any]:
    prompts = question["prompts"]
    base = model.base_scores(prompts)
    try:
        return {"base": base, "adapter": model.adapter_scores(question["adapter"], prompts)}
    except (ValueError, RuntimeError, TypeError, KeyError, OSError, SafetensorsMalformed) as error:
        return {"refused": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    serve_lines(partial(_answer, ReferenceModel(sys.argv[1])))
