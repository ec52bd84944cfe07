"""Tries other projects' clients on a running server, and prints a table for docs/clients.md. Not part of the test run.

    python tests/clients/smoke.py http://127.0.0.1:8000 DIRECTORY

Runs in an environment of its own with ``openai anthropic litellm langchain-openai httpx``, and for TRL's client, which
needs vLLM, in the project's. DIRECTORY is an adapter that the server may read (``--source-dir``). A client that is not
installed is left out.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from typing import Any, Literal

import httpx

QUESTION = [{"role": "user", "content": "Order for Ben: 29 green hats, deliver to Paris on Tuesday."}]
PAINT = {
    "type": "function",
    "function": {
        "name": "paint",
        "description": "Paints.",
        "parameters": {
            "type": "object",
            "properties": {"color": {"type": "string", "enum": ["red", "blue"]}},
            "required": ["color"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "title": "Order",
    "type": "object",
    "properties": {"qty": {"type": "integer"}},
    "required": ["qty"],
    "additionalProperties": False,
}


def paint(color: Literal["red", "blue"]) -> str:
    """Paints."""
    return color


def litellm(url: str, _: str) -> None:
    module: Any = importlib.import_module("litellm")
    options: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "any", "max_tokens": 64}
    for provider in ("openai", "hosted_vllm"):
        options["model"] = f"{provider}/json"
        assert module.completion(messages=QUESTION, **options).choices[0].message.content
        assert "".join(
            chunk.choices[0].delta.content or ""
            for chunk in module.completion(messages=QUESTION, stream=True, **options)
        )
        called = module.completion(messages=QUESTION, tools=[PAINT], tool_choice="required", **options)
        assert called.choices[0].message.tool_calls[0].function.name == "paint"
    try:
        module.completion(messages=QUESTION, **{**options, "model": "openai/nowhere"})
    except module.NotFoundError:
        return
    raise AssertionError("an unknown model is no NotFoundError")


def langchain(url: str, _: str) -> None:
    module: Any = importlib.import_module("langchain_openai")
    model = module.ChatOpenAI(model="json", base_url=f"{url}/v1", api_key="any", max_tokens=64, temperature=0)
    assert model.invoke("Order for Ben: 29 green hats, deliver to Paris on Tuesday.").content
    assert "".join(chunk.content for chunk in model.stream("Order for Ben: 2 hats, deliver to Paris on Tuesday."))
    for choice in ("paint", "required"):  # LangChain drops `strict` from tools that are dicts of OpenAI's form
        called = model.bind_tools([paint], tool_choice=choice, strict=True).invoke("Paint it.")
        assert called.tool_calls[0]["name"] == "paint"
        assert called.tool_calls[0]["args"]["color"] in {"red", "blue"}
    for method in ("json_schema", "function_calling"):
        strict = model.with_structured_output(SCHEMA, method=method, strict=True)
        assert isinstance(strict.invoke("Two hats.")["qty"], int)
    by_responses = module.ChatOpenAI(model="json", base_url=f"{url}/v1", api_key="any", use_responses_api=True)
    assert by_responses.invoke("Order for Ben: 29 green hats, deliver to Paris on Tuesday.").text


def anthropic(url: str, _: str) -> None:
    module: Any = importlib.import_module("anthropic")
    client = module.Anthropic(base_url=url, api_key="any", max_retries=0)
    options: dict[str, Any] = {"model": "json", "max_tokens": 64, "messages": QUESTION}
    assert client.messages.create(**options).content[0].text
    with client.messages.stream(**options) as stream:
        assert "".join(stream.text_stream)
    function = PAINT["function"]
    assert isinstance(function, dict)
    tool = {"name": "paint", "description": "Paints.", "input_schema": function["parameters"], "strict": True}
    called = client.messages.create(tools=[tool], tool_choice={"type": "tool", "name": "paint"}, **options)
    assert called.content[-1].name == "paint"
    assert client.messages.count_tokens(model="json", messages=QUESTION).input_tokens > 0
    try:
        client.messages.create(**{**options, "model": "nowhere"})
    except module.NotFoundError:
        return
    raise AssertionError("an unknown model is no NotFoundError")


def sidecar(url: str, directory: str) -> None:
    """Send what the LoRA sidecar of the Kubernetes inference extension sends."""
    with httpx.Client(base_url=url, timeout=60) as http:
        assert http.get("/health").status_code == 200
        body = {"lora_name": "sidecar", "lora_path": directory, "base_model_name": "embedded-base"}
        loaded = http.post("/v1/load_lora_adapter", json=body)
        assert loaded.status_code == 200, loaded.text
        assert "sidecar" in {model["id"] for model in http.get("/v1/models").json()["data"]}
        gone = http.post("/v1/unload_lora_adapter", json={"lora_name": "sidecar"})
        assert gone.status_code == 200, gone.text
        assert "sidecar" not in {model["id"] for model in http.get("/v1/models").json()["data"]}


def art(url: str, directory: str) -> None:
    """Send what OpenPipe ART's backend sends after a training step: a name for each step, loaded in place."""
    openai: Any = importlib.import_module("openai")
    with httpx.Client(base_url=url, timeout=60) as http:
        for step in (1, 2):
            body = {"lora_name": f"agent@{step}", "lora_path": directory, "load_inplace": True}
            loaded = http.post("/v1/load_lora_adapter", json=body)
            assert loaded.status_code == 200, loaded.text
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
            answer = client.chat.completions.create(
                model=f"agent@{step}", messages=QUESTION, max_tokens=16, logprobs=True, extra_body={"top_k": 5}
            )
            assert answer.choices[0].logprobs.content


def trl(url: str, _: str) -> None:
    """Generate with the client of TRL's trainers, as a teacher or for rewards: it takes the first model, the base."""
    module: Any = importlib.import_module("trl.generation.vllm_client")
    client = module.VLLMClient(base_url=url)
    assert client.model == "embedded-base"
    client.model = "json"
    text = QUESTION[0]["content"]
    answered = client.generate([text], n=2, max_tokens=8, logprobs=1)
    assert [len(answered["prompt_ids"]), len(answered["completion_ids"])] == [1, 2]
    assert len(answered["logprobs"][0]) == len(answered["completion_ids"][0])
    answered = client.chat([QUESTION], max_tokens=8, temperature=0.0)
    ids, start = answered["prompt_ids"][0] + answered["completion_ids"][0], len(answered["prompt_ids"][0])
    scored = client.get_sequence_logprobs([ids], [start], top_logprobs=20)
    assert [each[0] for each in scored["actual_token_ids"][0]] == answered["completion_ids"][0]
    why = ""
    try:
        client.get_world_size()  # the first call of weight synchronisation
    except Exception as refused:  # noqa: BLE001  TRL raises no class of its own
        why = str(refused)
    assert "/v1/load_lora_adapter" in why, why


CLIENTS: dict[str, tuple[str | None, Callable[[str, str], None]]] = {
    "LiteLLM: chat, stream, tools, errors; as `openai/` and as `hosted_vllm/`": ("litellm", litellm),
    "LangChain's ChatOpenAI: invoke, stream, bind_tools, with_structured_output, responses": (
        "langchain-openai",
        langchain,
    ),
    "anthropic: messages, stream, tools, count_tokens, errors": ("anthropic", anthropic),
    "TRL's VLLMClient: generate, chat, get_sequence_logprobs, on an adapter": ("trl", trl),
    "Kubernetes' LoRA sidecar: its calls": (None, sidecar),
    "OpenPipe ART's loader: its calls": ("openai", art),
}


def main(url: str, directory: str) -> int:
    failures = 0
    print("| client | version | result |\n|---|---|---|")
    for name, (package, attempt) in CLIENTS.items():
        try:
            version = "" if package is None else importlib.metadata.version(package)
            attempt(url, directory)
            result = "works"
        except importlib.metadata.PackageNotFoundError:
            version, result = "", "not installed"
        except Exception as why:  # noqa: BLE001  whatever a client raises is its result
            failures += 1
            result = f"{type(why).__name__}: {why}"[:300].replace("\n", " ")
        print(f"| {name} | {version} | {result} |", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].rstrip("/"), sys.argv[2]))
