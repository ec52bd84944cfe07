"""Requests of evals by OpenAI's own client; the fake engine answers with the name of the version that serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI
from openai.types.evals import RunRetrieveResponse

from server.engine.fake import FakeBuilder, Knobs
from tests.server.opened import BASE, Opened, Opening
from tests.server.routes.conftest import Official
from tests.until import Until

Json = dict[str, Any]

EXACT: Json = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
    "operation": "eq",
}
SCHEMA: Json = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "reference": {"type": "string"}},
    "required": ["reference"],
}
CONFIG: Json = {"type": "custom", "item_schema": SCHEMA, "include_sample_schema": True}
TEMPLATE: Json = {"type": "template", "template": [{"role": "user", "content": "{{item.question}}?"}]}


def content(*rows: Json) -> Json:
    return {"type": "file_content", "content": list(rows)}


def asked(model: str, references: Sequence[str], **fields: Any) -> Json:
    rows = [{"item": {"question": f"q{n}", "reference": reference}} for n, reference in enumerate(references)]
    return {"type": "completions", "source": content(*rows), "model": model, "input_messages": TEMPLATE, **fields}


def answered(*pairs: tuple[str, str]) -> Json:
    rows = [{"item": {"reference": reference}, "sample": {"output_text": text}} for text, reference in pairs]
    return {"type": "jsonl", "source": content(*rows)}


async def made(openai: AsyncOpenAI, *criteria: Json, **fields: Any) -> str:
    body: Json = {"data_source_config": CONFIG, "testing_criteria": criteria or [EXACT], **fields}
    return (await openai.evals.create(**body)).id


async def ended(openai: AsyncOpenAI, eval_id: str, run_id: str, until: Until) -> RunRetrieveResponse:
    async def has_ended() -> RunRetrieveResponse | None:
        run = await openai.evals.runs.retrieve(run_id, eval_id=eval_id)
        return run if run.status in {"completed", "failed", "canceled"} else None

    found: RunRetrieveResponse = await until(has_ended, within_s=300, every_s=0.1)
    return found


async def ran(openai: AsyncOpenAI, eval_id: str, source: Json, until: Until, **fields: Any) -> RunRetrieveResponse:
    body: Json = {"data_source": source, **fields}
    run = await openai.evals.runs.create(eval_id, **body)
    return await ended(openai, eval_id, run.id, until)


async def outputs(openai: AsyncOpenAI, run: RunRetrieveResponse, **query: Any) -> list[Any]:
    return [item async for item in openai.evals.runs.output_items.list(run.id, eval_id=run.eval_id, **query)]


async def has_executed(openai: AsyncOpenAI, eval_id: str, run_id: str, count: int) -> bool:
    return (await openai.evals.runs.retrieve(run_id, eval_id=eval_id)).result_counts.total >= count


@dataclass(frozen=True)
class BegunRun:
    """A run that a slow server works on."""

    opened: Opened
    openai: AsyncOpenAI
    eval_id: str
    id: str


@asynccontextmanager
async def begun(
    opening: Opening, official: Official, until: Until, references: Sequence[str], *, executed: int = 1
) -> AsyncIterator[BegunRun]:
    """Open a slow server with the adapter ``sql``, and ask it about items until ``executed`` of them have results."""
    async with opening(builder=FakeBuilder(BASE, knobs=Knobs(token_s=0.05))) as opened, official(opened) as openai:
        await opened.publish("sql")
        eval_id = await made(openai)
        run = await openai.evals.runs.create(eval_id, data_source=asked("sql", references))  # type: ignore[arg-type]
        await until(lambda: has_executed(openai, eval_id, run.id, executed))
        yield BegunRun(opened, openai, eval_id, run.id)
