"""Batches and stored responses on the real engine, by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json

ROUTE = "/v1/chat/completions"


async def ask(client, model: str, question: str) -> str:
    response = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=64, temperature=0
    )
    return response.choices[0].message.content


async def test_the_lines_of_a_batch_are_answered_as_requests_are(client, held_out):
    asked = [(model, question) for model in ("sql", "json", "embedded-base") for question, _ in held_out("sql")[:8]]
    rows = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": ROUTE,
            "body": {
                "model": model,
                "messages": [{"role": "user", "content": question}],
                "max_tokens": 64,
                "temperature": 0,
            },
        }
        for number, (model, question) in enumerate(asked)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = await client.files.create(file=("requests.jsonl", content), purpose="batch")
    batch = await client.batches.create(input_file_id=file.id, endpoint=ROUTE, completion_window="24h")
    expected = [await ask(client, *each) for each in asked]
    async with asyncio.timeout(240):
        while (batch := await client.batches.retrieve(batch.id)).status not in {"completed", "failed"}:
            await asyncio.sleep(0.2)
    assert (batch.status, batch.errors, batch.error_file_id) == ("completed", None, None)
    lines = [json.loads(line) for line in (await client.files.content(batch.output_file_id)).text.splitlines()]
    assert [line["custom_id"] for line in lines] == [row["custom_id"] for row in rows]
    assert [line["response"]["body"]["choices"][0]["message"]["content"] for line in lines] == expected


async def test_a_response_goes_on_from_a_stored_one_as_from_the_whole_conversation(client, held_out):
    (first, _), (second, _) = held_out("sql")[:2]
    options = {"model": "sql", "temperature": 0, "max_output_tokens": 64}
    made = await client.responses.create(input=first, **options)
    after = await client.responses.create(input=second, previous_response_id=made.id, **options)
    whole = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": made.output_text},
        {"role": "user", "content": second},
    ]
    expected = await client.responses.create(input=whole, store=False, **options)
    assert (after.output_text, after.usage.input_tokens) == (expected.output_text, expected.usage.input_tokens)
    assert after.previous_response_id == made.id
    stream = await client.responses.create(input=second, previous_response_id=made.id, stream=True, **options)
    events = [event async for event in stream]
    last = events[-1].response
    assert (events[-1].type, last.output_text) == ("response.completed", expected.output_text)
    assert (await client.responses.retrieve(last.id)).output == last.output
    items = [item async for item in client.responses.input_items.list(after.id, order="asc")]
    assert [item.content[0].text for item in items] == [first, made.output_text, second]
    third = await client.responses.create(input="And again?", previous_response_id=last.id, **options)
    assert third.usage.input_tokens > after.usage.input_tokens
