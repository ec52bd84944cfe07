"""Evals on the real engine, by OpenAI's own client and by the command line: a trained adapter beats the base model."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
    "operation": "eq",
}
CONFIG = {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True}
TEMPLATE = {"type": "template", "template": [{"role": "user", "content": "{{item.question}}"}]}


async def ended(client, eval_id: str, run_id: str):
    async with asyncio.timeout(300):
        while True:
            run = await client.evals.runs.retrieve(run_id, eval_id=eval_id)
            if run.status in {"completed", "failed", "canceled"}:
                return run
            await asyncio.sleep(0.2)


async def started(client, eval_id: str, model: str, pairs):
    rows = [{"item": {"question": question, "reference": answer}} for question, answer in pairs]
    source = {
        "type": "completions",
        "model": model,
        "input_messages": TEMPLATE,
        "source": {"type": "file_content", "content": rows},
        "sampling_params": {"temperature": 0, "max_completion_tokens": 64},
    }
    return await client.evals.runs.create(eval_id, name=model, data_source=source)


async def test_the_adapter_beats_the_base_on_rows_that_it_has_not_seen(client, held_out):
    pairs = held_out("sql")
    eval_ = await client.evals.create(name="sql", data_source_config=CONFIG, testing_criteria=[EXACT])
    runs = [await started(client, eval_.id, model, pairs) for model in ("embedded-base", "sql")]
    base, sql = [await ended(client, eval_.id, run.id) for run in runs]
    assert (base.status, sql.status, sql.model) == ("completed", "completed", "sql@1")
    assert base.result_counts.passed < len(pairs) / 10
    assert sql.result_counts.passed > len(pairs) * 0.9
    (usage,) = sql.per_model_usage
    assert (usage.run_model_name, usage.invocation_count) == ("sql@1", len(pairs))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0
    items = [item async for item in client.evals.runs.output_items.list(sql.id, eval_id=eval_.id)]
    assert [item.datasource_item_id for item in items] == list(range(len(pairs)))
    assert sum(item.sample.usage.completion_tokens for item in items) == usage.completion_tokens
    asked = await client.chat.completions.create(
        model="sql", messages=[{"role": "user", "content": pairs[0][0]}], temperature=0, max_completion_tokens=64
    )
    assert items[0].sample.output[0].content == asked.choices[0].message.content
    assert items[0].sample.finish_reason == "stop"


async def test_a_grading_model_answers_in_its_form_behind_live_requests(client, held_out):
    judge = {
        "type": "label_model",
        "name": "judge",
        "model": "embedded-base",
        "labels": ["good", "bad"],
        "passing_labels": ["good", "bad"],
        "input": [{"role": "user", "content": "Is this SQL? {{sample.output_text}}"}],
    }
    eval_ = await client.evals.create(data_source_config=CONFIG, testing_criteria=[judge, EXACT])
    run = await started(client, eval_.id, "sql", held_out("sql")[:4])
    done = await ended(client, eval_.id, run.id)
    assert (done.status, done.result_counts.errored) == ("completed", 0)
    assert {usage.run_model_name: usage.invocation_count for usage in done.per_model_usage} == {
        "sql@1": 4,
        "embedded-base": 4,
    }


def test_the_command_of_the_page_compares_adapters_and_writes_a_report(server, tmp_path: Path):
    page = (ROOT / "docs" / "evals.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (command,) = (block for block in blocks if "patchbay eval" in block)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", command.replace("sql-report", str(tmp_path))],
        cwd=ROOT,
        env={**os.environ, "PATCHBAY_URL": server.url, "PATH": path},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    base, sql = json.loads((tmp_path / "report.json").read_text())["models"]
    assert sql["comparison"]["items"] == 100
    assert sql["comparison"]["interval"][0] > 0.8
    assert (base["comparison"], sql["pass_rate"] > 0.9) == (None, True)
    assert (tmp_path / "report.html").read_text().count('role="img"') == 3, "its plots"


async def test_a_run_survives_a_kill_of_the_server_and_asks_no_finished_item_again(start_server, tmp_path, held_out):
    pairs = [pair for skill in ("sql", "json", "sentiment", "pirate") for pair in held_out(skill)] * 5
    server = start_server(tmp_path / "data")
    server.wait_ready()
    async with server.client() as client:
        eval_ = await client.evals.create(data_source_config=CONFIG, testing_criteria=[EXACT])
        run = await started(client, eval_.id, "embedded-base", pairs)
        async with asyncio.timeout(240):
            while (found := await client.evals.runs.retrieve(run.id, eval_id=eval_.id)).result_counts.total < 20:
                await asyncio.sleep(0.05)
    server.process.kill()
    server.process.wait(60)
    again = start_server(tmp_path / "data")
    again.wait_ready()
    async with again.client() as client:
        kept = {item.id: item async for item in client.evals.runs.output_items.list(run.id, eval_id=eval_.id)}
        assert found.result_counts.total <= len(kept)
        done = await ended(client, eval_.id, run.id)
        assert (done.status, done.result_counts.total) == ("completed", len(pairs))
        assert done.per_model_usage[0].invocation_count == len(pairs)
        items = {
            item.id: item async for item in client.evals.runs.output_items.list(run.id, eval_id=eval_.id, limit=200)
        }
        assert len(items) == len(pairs)
        assert {key: items[key] for key in kept} == kept
