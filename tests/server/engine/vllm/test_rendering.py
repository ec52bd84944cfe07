"""Training rows have the very prompts that vLLM's HTTP front end builds for the same conversation and flags."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.render.app_state import init_render_app_state

from embedded import BASE
from server.engine.vllm.flags import parse_flags, renderer_options
from tests.trainer.rendering.conversations import conversations
from tests.trainer.templates.shapes import SHAPES
from trainer.data.faults import LineFaults
from trainer.data.row_reader import read_row
from trainer.data.rows import Conversation
from trainer.rendering.row_renderer import RowRenderer
from trainer.rendering.serving_renderer import ServingRenderer, TemplateRefused
from trainer.row_formats import RowFormat

Json = dict[str, Any]
Tokenize = Callable[..., Any]


@asynccontextmanager
async def front_end(base: Path, *flags: str) -> AsyncIterator[tuple[httpx.AsyncClient, RowRenderer]]:
    """Open vLLM's HTTP front end without an engine, and the renderer of training rows for the same flags."""
    args = parse_flags(str(base), ["--served-model-name", "base", *flags], capacity=4)
    config = VllmConfig(model_config=AsyncEngineArgs.from_cli_args(args).create_model_config())
    app = build_app(args, ("render",))
    await init_render_app_state(config, app.state, args)
    renderer = RowRenderer(ServingRenderer(base, renderer_options(args)), most_tokens=config.model_config.max_model_len)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client, renderer


async def served(client: httpx.AsyncClient, row: Json, count: int, *, asking: bool) -> list[int] | None:
    """Return the tokens of the first ``count`` messages as the server makes them; None if it refuses them."""
    body = {**row, "model": "base", "messages": row["messages"][:count], "add_generation_prompt": asking}
    response = await client.post("/tokenize", json=body)
    tokens: list[int] | None = response.json()["tokens"] if response.status_code == 200 else None
    return tokens


async def check_row(client: httpx.AsyncClient, renderer: RowRenderer, row: Json) -> bool:
    """Compare every prompt of a row, and the start of every trained answer. False: the template refuses the row."""
    faults = LineFaults(1)
    conversation = read_row(row, RowFormat.CHAT, faults)
    assert isinstance(conversation, Conversation), faults.found
    answered = [index for index, trained in enumerate(conversation.trained) if trained]
    prompts = {index: await served(client, row, index, asking=True) for index in answered}
    for index in answered:
        assert prompts[index] == await prompt_of(renderer, conversation, index, asking=True)
        after = await served(client, row, index + 1, asking=False)
        assert after == await prompt_of(renderer, conversation, index + 1, asking=False)
    rendered = await asyncio.to_thread(renderer.conversation, conversation, faults)
    starts = [
        sequence.ids[:at]
        for sequence in rendered
        for at, trained in enumerate(sequence.trained)
        if trained and (at == 0 or not sequence.trained[at - 1])
    ]
    assert faults or starts == list(prompts.values())
    return not faults


async def prompt_of(renderer: RowRenderer, row: Conversation, count: int, *, asking: bool) -> list[int] | None:
    try:
        prompt = await asyncio.to_thread(renderer.serving.prompt, row.messages[:count], row.tools, asking=asking)
        return prompt.ids
    except TemplateRefused:
        return None


CASES = [
    *((name, flags) for name, shape in SHAPES.items() for flags in shape.flags),
    ("embedded", {}),
    ("embedded", {"unused": 1}),
]


@pytest.mark.parametrize(("shape", "arguments"), CASES, ids=[f"{name} {json.dumps(flags)}" for name, flags in CASES])
async def test_rows_have_the_servers_prompts(tmp_path: Path, shape: str, arguments: Json) -> None:
    base = BASE if shape == "embedded" else SHAPES[shape].write_base(tmp_path / shape)
    flags = ("--default-chat-template-kwargs", json.dumps(arguments)) if arguments else ()
    async with front_end(base, *flags) as (client, renderer):
        await compare(client, renderer, examples=25)


@pytest.mark.parametrize("content_format", ["string", "openai"])
async def test_rows_follow_the_servers_template_and_content_format(tmp_path: Path, content_format: str) -> None:
    template = tmp_path / "served.jinja"
    template.write_text(
        "{%- for m in messages -%}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor -%}"
        "{%- if add_generation_prompt -%}<|im_start|>assistant: {% endif -%}"
    )
    flags = ("--chat-template", str(template), "--chat-template-content-format", content_format)
    async with front_end(BASE, *flags) as (client, renderer):
        await compare(client, renderer, examples=10)


async def test_rows_follow_the_servers_tokenizer(tmp_path: Path) -> None:
    other = SHAPES["gemma"].write_base(tmp_path / "other")
    async with front_end(BASE, "--tokenizer", str(other)) as (client, renderer):
        assert len(renderer.serving.encode("<start_of_turn>")) == 1, "a special token of the other tokenizer"
        await compare(client, renderer, examples=10)


async def compare(client: httpx.AsyncClient, renderer: RowRenderer, examples: int) -> None:
    rows: list[Json] = []

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(conversations())
    def collect(row: Json) -> None:
        rows.append(row)

    collect()
    assert any([await check_row(client, renderer, row) for row in rows])
