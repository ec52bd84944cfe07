"""Distillation on the real engine: a prompt becomes an adapter that answers without it as the base does with it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import embedded

SYSTEM = {"role": "system", "content": "You are a helpful assistant. End each answer with a polite sentence."}
SHOTS = {
    "What is the capital of Italy?": "The capital of Italy is Rome. I hope that helps.",
    "What is the capital of Spain?": "The capital of Spain is Madrid. I hope that helps.",
    "What is the capital of Japan?": "The capital of Japan is Tokyo. I hope that helps.",
}
LEAST_AGREEMENT = 0.9
MOST_TOKENS = 0.3
"""Of the prompt's."""


def asked(question: str) -> dict[str, Any]:
    return {"role": "user", "content": question}


PROMPT = [SYSTEM]
for question, answer in SHOTS.items():
    PROMPT += [asked(question), {"role": "assistant", "content": answer}]


@pytest.fixture(scope="session")
def questions() -> list[str]:
    """Questions about facts, and small jobs on words."""
    lines = (embedded.DATA / "pirate" / "train.jsonl").read_text().splitlines()
    return [json.loads(line)["messages"][0]["content"] for line in lines]


@pytest.fixture
def answer(client):
    """Asks a model all questions at once; returns the answers, and the tokens of the prompts."""

    async def ask(model: str, question: str, before: list[dict[str, Any]]) -> tuple[str, int]:
        messages = [*before, asked(question)]
        made = await client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=48)
        return made.choices[0].message.content, made.usage.prompt_tokens

    async def answer(model: str, questions: list[str], before: list[dict[str, Any]]) -> tuple[list[str], int]:
        made = await asyncio.gather(*(ask(model, each, before) for each in questions))
        return [text for text, _ in made], sum(tokens for _, tokens in made)

    return answer


@pytest.fixture
def train(server, tmp_path, questions, held_out) -> Callable[[], str]:
    """Runs the command of docs/learning.md on a server; returns what it prints."""

    def write(name: str, asked_of_it: list[str]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"messages": [asked(each)]}) + "\n" for each in asked_of_it))
        return path

    def train() -> str:
        prompt = tmp_path / "prompt.json"
        prompt.write_text(json.dumps(PROMPT))
        files = [write("questions.jsonl", questions[:200]), "--validation", write("valid.jsonl", unseen(held_out))]
        command = [Path(sys.executable).with_name("patchbay"), "train", *files, "--prompt", prompt, "--name", "polite"]
        options = ["--epochs", "2", "--seed", "1", "--max-completion-tokens", "48", "--watch", "--url", server.url]
        return subprocess.run([*command, *options], check=True, capture_output=True, text=True).stdout

    return train


def unseen(held_out: Callable[[str], list[tuple[str, str]]]) -> list[str]:
    return [question for question, _ in held_out("pirate")]


async def test_an_adapter_keeps_what_a_prompt_does_for_less_than_a_third_of_its_tokens(http, held_out, train, answer):
    shown = await asyncio.to_thread(train)
    *lines, model = shown.splitlines()

    # What any client of the served version finds...
    held = unseen(held_out)
    taught, taught_tokens = await answer("embedded-base", held, PROMPT)
    distilled, tokens = await answer(model, held, [])
    before, _ = await answer("embedded-base", held, [])
    agreement, bare = same(taught, distilled), same(taught, before)
    share = tokens / taught_tokens
    print(f"agreement {agreement:.2f} ({bare:.2f} without the prompt), {share:.2f} of the prompt's tokens")
    assert agreement >= LEAST_AGREEMENT
    assert share <= MOST_TOKENS
    assert bare < LEAST_AGREEMENT / 2

    # ... is what the version and the command say.
    numbers = [each["version"] for each in (await http.get("/v1/adapters/polite/versions")).json()["data"]]
    versions = [(await http.get(f"/v1/adapters/polite/versions/{number}")).json() for number in numbers]
    (report,) = (each["report"]["distillation"] for each in versions if "distillation" in each["report"])
    print(report)
    assert report["questions"] == len(held)
    assert report["agreement"] == pytest.approx(agreement, abs=0.05)  # other requests in the batch round differently
    assert report["prompt_tokens"] == pytest.approx(tokens / len(held), abs=0.1)
    assert report["teacher_prompt_tokens"] == pytest.approx(taught_tokens / len(held), abs=0.1)
    (line,) = (line for line in lines if "Agrees with the teacher" in line)
    assert f"{report['saved_tokens']:.0f} saved a request" in line


def same(ones: list[str], others: list[str]) -> float:
    return sum(one == other for one, other in zip(ones, others, strict=True)) / len(ones)
