"""The running server builds the prompts that training rows have."""

import asyncio

import httpx
from hypothesis import HealthCheck, given, settings
from openai import AsyncOpenAI

import embedded
from tests.trainer.rendering.conversations import Json, conversations
from trainer.renderer_options import RendererOptions
from trainer.rendering.serving_renderer import ServingRenderer


async def test_a_request_has_the_prompt_that_a_training_row_has(client: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    renderer = ServingRenderer(embedded.BASE, RendererOptions())
    rows: list[Json] = []

    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(conversations())
    def collect(row: Json) -> None:
        rows.append(row)

    collect()
    for row in rows:
        answered = [index for index, message in enumerate(row["messages"]) if message["role"] == "assistant"]
        tools = row.get("tools", [])
        for index in answered:
            asked = row["messages"][:index]
            body = {**row, "model": "embedded-base", "messages": asked}
            tokens = (await http.post("/tokenize", json=body)).json()["tokens"]
            prompt = await asyncio.to_thread(renderer.prompt, asked, tools, asking=True)
            assert prompt.ids == tokens
        completion = await client.chat.completions.create(
            **{**row, "messages": row["messages"][: answered[-1]]},
            model="embedded-base",
            max_tokens=1,
            extra_body={"return_token_ids": True},
        )
        assert completion.to_dict()["prompt_token_ids"] == tokens
