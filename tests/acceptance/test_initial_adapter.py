"""An adapter that was trained from a changed start, with its initial adapter beside it, on the real engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import embedded
from adapters.storage.manifest import EVERY_FILE, FILES
from tests.adapters.compile.spoiling import train

TEXT = "The museum opens at nine and closes when the last visitor has left. Where is the ship?"
FLOORS = 3.0
"""How far the served adapter may be from PEFT in float32, in distances of the base model itself."""


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return AutoTokenizer.from_pretrained(embedded.BASE)(TEXT)["input_ids"]


@pytest.fixture
def scores(http, prompt):
    async def of(model: str) -> torch.Tensor:
        body = {"model": model, "prompt": prompt, "max_tokens": 1, "prompt_logprobs": 0}
        served = (await http.post("/v1/completions", json=body)).json()["choices"][0]["prompt_logprobs"]
        return torch.tensor([entry[str(token)]["logprob"] for entry, token in zip(served[1:], prompt[1:], strict=True)])

    return of


def scored(model, prompt) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
    return logits[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]


@pytest.mark.parametrize("start", ["pissa", "olora"])
async def test_what_was_trained_from_a_changed_start_is_served_as_it_was_trained(http, scores, prompt, tmp_path, start):
    base = AutoModelForCausalLM.from_pretrained(embedded.BASE, dtype=torch.float32).eval()
    of_base = scored(base, prompt)
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=start)
    model = get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path / "initial")
    train(model, 0.1)
    model.save_pretrained(tmp_path)
    meant = scored(model, prompt)

    files = {name: (name, (Path(tmp_path) / name).read_bytes()) for name in EVERY_FILE}
    alone = await http.post("/v1/adapters/started/versions", files={name: files[name] for name in FILES})
    assert (alone.status_code, "initial/" in alone.text) == (400, True)
    response = await http.post("/v1/adapters/started/versions", files=files)
    assert response.status_code == 201, response.text
    version = response.json()
    assert version["report"]["compile"]["kind"] == start

    floor = (await scores("embedded-base") - of_base).abs().mean()
    assert (meant - of_base).abs().mean() > 10 * floor
    assert (await scores(version["id"]) - meant).abs().mean() <= FLOORS * floor

    path = f"/v1/adapters/started/versions/{version['version']}/content"
    listed = (await http.get(path, params={"form": "original"})).json()["data"]
    assert [file["name"] for file in listed] == list(EVERY_FILE)
    for file in listed:
        assert (await http.get(file["path"])).content == files[file["name"]][1]
    assert [file["name"] for file in (await http.get(path)).json()["data"]] == list(FILES)
