"""Every bad adapter is refused at the door with what to do about it, while a neighbour's stream runs on untouched."""

from __future__ import annotations

import asyncio
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def config_with(**changes):
    def break_(directory):
        config = json.loads((directory / CONFIG).read_text())
        (directory / CONFIG).write_text(json.dumps({**config, **changes}))

    return break_


def tensors_with(change):
    def break_(directory):
        tensors = load_file(directory / WEIGHTS)
        save_file({name: t.contiguous() for name, t in change(dict(tensors)).items()}, directory / WEIGHTS)

    return break_


def bytes_with(change):
    return lambda directory: (directory / WEIGHTS).write_bytes(change((directory / WEIGHTS).read_bytes()))


def first_to(value):
    def change(tensors):
        tensors[next(iter(tensors))].view(-1)[0] = value
        return tensors

    return change


def resized(width):
    return lambda tensors: {
        name: (t[:, :width] if t.shape[1] > width else torch.cat([t, t], 1)) if "lora_A" in name else t
        for name, t in tensors.items()
    }


def renamed(old, new):
    return lambda tensors: {name.replace(old, new): t for name, t in tensors.items()}


def deeper(tensors):
    extra = {name.replace("layers.0.", "layers.99."): t.clone() for name, t in tensors.items() if "layers.0." in name}
    return tensors | extra


def pickled(directory):
    (directory / WEIGHTS).unlink()
    (directory / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")


BAD = {
    "rank too high": (config_with(r=64), "--max-lora-rank 64"),
    "config is not JSON": (lambda d: (d / CONFIG).write_text("{"), "adapter_config.json"),
    "truncated weights": (bytes_with(lambda b: b[: len(b) // 2]), WEIGHTS),
    "empty weights": (bytes_with(lambda b: b""), WEIGHTS),
    "no tensors": (tensors_with(lambda t: {}), "lora_A"),
    "missing lora_B": (tensors_with(lambda t: {n: v for n, v in t.items() if "lora_B" not in n}), "lora_B"),
    "unknown target": (tensors_with(renamed("q_proj", "x_proj")), "x_proj"),
    "null alpha": (config_with(lora_alpha=None), "lora_alpha"),
    "DoRA": (config_with(use_dora=True), "use_dora"),
    "bias": (config_with(bias="all"), "bias"),
    "lora_bias": (config_with(lora_bias=True), "lora_bias"),
    "PiSSA": (config_with(init_lora_weights="pissa"), "init_lora_weights"),
    "modules_to_save": (config_with(modules_to_save=["lm_head"]), "modules_to_save"),
    "pickle": (pickled, "adapter_model.bin"),
    "larger base": (tensors_with(resized(10**6)), "lora_A"),
    "smaller base": (tensors_with(resized(64)), "lora_A"),
    "tensor rank above the config": (config_with(r=4), "rank"),
    "key prefix mismatch": (tensors_with(renamed("base_model.model.", "encoder.")), "encoder."),
    "LoHa under a LoRA config": (tensors_with(renamed("lora_A.weight", "hada_w1_a")), "hada_w1_a"),
    "LoHa by its own config": (config_with(peft_type="LOHA"), "lora_alpha"),
    "int8 tensors": (tensors_with(lambda t: {n: v.to(torch.int8) for n, v in t.items()}), "I8"),
    "deeper base": (tensors_with(deeper), "layers.99"),
    "NaN": (tensors_with(first_to(float("nan"))), "NaN"),
    "infinite": (tensors_with(first_to(float("inf"))), "lora_"),
    "1e30": (tensors_with(first_to(1e30)), "lora_"),
    "inert": (tensors_with(lambda t: {n: v * 0 for n, v in t.items()}), "zero"),
}


@pytest.fixture(scope="module")
async def neighbour(server):
    """A stream of another adapter that runs for as long as the module's refusals, checked at the end."""
    async with server.client() as client:

        async def whole() -> str:
            response = await client.chat.completions.create(
                model="json",
                messages=[{"role": "user", "content": "Tell me about the harbour."}],
                temperature=0,
                max_tokens=400,
                extra_body={"ignore_eos": True},
            )
            return response.choices[0].message.content

        expected, done = await whole(), asyncio.Event()

        async def again_and_again() -> list[str]:
            answers = [await whole()]
            while not done.is_set():
                answers.append(await whole())
            return answers

        running = [asyncio.create_task(again_and_again()) for _ in range(2)]
        yield
        assert not any(stream.done() for stream in running)
        done.set()
        for answers in await asyncio.gather(*running):
            assert set(answers) == {expected}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_adapter_is_refused_with_what_to_do(http, push, variant, neighbour, kind):
    break_, hint = BAD[kind]
    directory = variant("sql", 1.0)
    break_(directory)
    response = await push("bad", directory)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["code"] == "adapter_refused"
    assert hint in error["message"] + json.dumps(error["faults"])
    assert all(fault["where"] and fault["found"] and fault["needed"] for fault in error["faults"])
    assert (await http.get("/v1/models/bad")).status_code == 404


async def test_an_upload_that_breaks_off_leaves_nothing_behind(http, server):
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="adapter_config.json"\r\n\r\n{'
    response = await http.post(
        "/v1/adapters/bad/versions", content=head, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert response.status_code == 400
    assert "broke off" in response.json()["error"]["message"]
    # What others publish meanwhile, such as a job of another test, may be staged too.
    assert not [path for path in (server.data_dir / "staging").rglob(CONFIG) if path.read_bytes() == b"{"]


async def test_a_source_outside_the_allowed_directories_is_forbidden(http):
    response = await http.post("/v1/adapters/bad/versions", json={"source": "file:///etc"})
    assert response.status_code == 403
    assert "--source-dir" in response.json()["error"]["message"]
