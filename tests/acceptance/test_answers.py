"""A request names an adapter and gets it: base and examples, each as good as in training, on every route."""

from __future__ import annotations

import asyncio
import json

import pytest
from openai import APIStatusError

SKILLS = ("json", "sql", "sentiment")


async def ask(client, model, content, **options):
    options = {"max_tokens": 96, "temperature": 0, **options}
    response = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], **options
    )
    return response.choices[0].message.content.strip()


async def exact_match(client, model, rows) -> float:
    answers = await asyncio.gather(*(ask(client, model, question) for question, _ in rows))
    return sum(answer == expected for answer, (_, expected) in zip(answers, rows, strict=True)) / len(rows)


@pytest.mark.parametrize("skill", SKILLS)
async def test_an_adapter_does_on_held_out_rows_what_it_was_trained_for_and_the_base_does_not(client, held_out, skill):
    rows = held_out(skill)
    base, adapter = await asyncio.gather(exact_match(client, "embedded-base", rows), exact_match(client, skill, rows))
    assert base < 0.05
    assert adapter >= 0.85


async def test_base_and_three_adapters_answer_the_same_question_differently(client, held_out):
    question = held_out("json")[0][0]
    answers = await asyncio.gather(*(ask(client, model, question) for model in ("embedded-base", *SKILLS)))
    assert len(set(answers)) == 4


async def test_the_response_names_the_version_that_answered(client):
    raw = await client.chat.completions.with_raw_response.create(
        model="sql", messages=[{"role": "user", "content": "hello"}], max_tokens=4
    )
    assert raw.parse().model == raw.headers["x-patchbay-adapter"] == "sql@1"
    assert len(raw.headers["x-patchbay-digest"]) == 64


async def test_base_rows_in_a_batch_with_adapters_stay_exactly_the_base(client, held_out):
    """Fails without server.engine.vllm.cpu.lora: stock CPU ops answer base rows with the last slot's adapter."""
    questions = [question for question, _ in held_out("json")[:12]]
    alone = [await ask(client, "embedded-base", question) for question in questions]
    mixed = await asyncio.gather(
        *(ask(client, model, question) for question in questions for model in ("embedded-base", *SKILLS))
    )
    assert mixed[:: 1 + len(SKILLS)] == alone


async def test_completions_answer_with_an_adapter(client):
    response = await client.completions.create(model="json@1", prompt="Order", max_tokens=5, logprobs=2)
    assert response.model == "json@1"
    assert len(response.choices[0].logprobs.tokens) == 5


async def test_responses_answer_with_an_adapter(client, held_out):
    question, expected = held_out("sentiment")[0]
    response = await client.responses.create(model="sentiment", input=question, temperature=0, max_output_tokens=20)
    assert response.model == "sentiment@1"
    assert response.output_text.strip() == expected


async def test_anthropic_messages_answer_with_an_adapter(http, held_out):
    question, expected = held_out("sentiment")[0]
    body = {
        "model": "sentiment",
        "max_tokens": 20,
        "temperature": 0,
        "messages": [{"role": "user", "content": question}],
    }
    response = await http.post("/v1/messages", json=body)
    assert response.json()["content"][0]["text"].strip() == expected
    assert response.headers["x-patchbay-adapter"] == "sentiment@1"


async def test_an_unknown_model_gets_anthropics_error_shape_under_messages(http):
    body = {"model": "nobody", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}
    response = await http.post("/v1/messages", json=body)
    assert response.status_code == 404
    assert response.json()["type"] == "error"
    assert "nobody" in response.json()["error"]["message"]


async def test_a_streamed_answer_equals_the_whole_one(client, held_out):
    question = held_out("sql")[0][0]
    stream = await client.chat.completions.create(
        model="sql", messages=[{"role": "user", "content": question}], temperature=0, max_tokens=96, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert len(pieces) > 3
    assert "".join(pieces).strip() == await ask(client, "sql", question)


async def test_logprobs_come_with_an_adapter(client):
    response = await client.chat.completions.create(
        model="sql",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=3,
        logprobs=True,
        top_logprobs=2,
        extra_body={"ignore_eos": True},  # a sampled answer may end sooner
    )
    content = response.choices[0].logprobs.content
    assert len(content) == 3
    assert all(len(token.top_logprobs) == 2 for token in content)


async def test_structured_output_holds_with_an_adapter(client, held_out):
    schema = {
        "type": "object",
        "properties": {"item": {"type": "string"}, "qty": {"type": "integer"}},
        "required": ["item", "qty"],
        "additionalProperties": False,
    }
    question, expected = held_out("json")[0]
    form = {"type": "json_schema", "json_schema": {"name": "order", "schema": schema, "strict": True}}
    answer = json.loads(await ask(client, "json", question, response_format=form))
    assert answer == {key: value for key, value in json.loads(expected).items() if key in answer}
    assert set(answer) == {"item", "qty"}


async def test_a_named_tool_is_called_with_an_adapter(client):
    tool = {
        "type": "function",
        "function": {
            "name": "paint",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"color": {"enum": ["red", "blue"]}},
                "required": ["color"],
                "additionalProperties": False,
            },
        },
    }
    response = await client.chat.completions.create(
        model="json",
        messages=[{"role": "user", "content": "Paint it."}],
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "paint"}},
        max_tokens=128,
        temperature=0,
    )
    call = response.choices[0].message.tool_calls[0]
    assert call.function.name == "paint"
    assert json.loads(call.function.arguments)["color"] in {"red", "blue"}


async def test_tokens_are_counted_without_loading_the_adapter_that_is_named(http):
    await http.post("/v1/adapters/pirate/versions/1/unload")
    messages = [{"role": "user", "content": "hello"}]
    for path, fields in (("/tokenize", {}), ("/v1/messages/count_tokens", {"max_tokens": 1})):
        answer = await http.post(path, json={"model": "pirate", "messages": messages, **fields})
        assert answer.status_code == 200, answer.text
    assert (await http.get("/v1/adapters/pirate/versions/1")).json()["residency"] is None
    assert (await http.post("/tokenize", json={"model": "nobody", "prompt": "x"})).status_code == 404


async def test_tokenize_and_detokenize_are_each_others_inverse(http):
    tokens = (await http.post("/tokenize", json={"model": "sql", "prompt": "SELECT name"})).json()["tokens"]
    text = (await http.post("/detokenize", json={"model": "sql", "tokens": tokens})).json()["prompt"]
    assert text == "SELECT name"


async def test_a_server_without_a_tokenizer_answers_token_ids_with_token_ids(start_server, tmp_path):
    """As trainers ask that hold the tokenizer themselves."""
    server = start_server(tmp_path / "data", "--skip-tokenizer-init")
    server.wait_ready()
    async with server.client() as client:
        for model in ("embedded-base", "sql"):
            answer = await client.completions.create(
                model=model, prompt=[5, 6, 7], max_tokens=4, extra_body={"ignore_eos": True, "return_token_ids": True}
            )
            assert len(answer.choices[0].token_ids) == 4
        with pytest.raises(APIStatusError, match="skip_tokenizer_init"):
            await client.completions.create(model="sql", prompt="text", max_tokens=4)
    server.process.terminate()
    assert server.process.wait(60) == 0


async def test_embeddings_on_a_chat_model_say_what_they_need(http):
    response = await http.post("/v1/embeddings", json={"model": "sql", "input": "hi"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unsupported_by_base"
    assert "embedding model" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/pause", "/invocations", "/update_weights", "/scale_elastic_ep", "/sleep"])
async def test_routes_of_vllm_that_are_not_ours_to_give_cannot_be_reached(http, path):
    response = await http.post(path, json={})
    assert response.status_code == 404
    assert response.headers["x-request-id"]


async def test_metrics_count_each_adapter_and_show_vllms_own_series(http, client):
    await ask(client, "sql", "hello", max_tokens=8)
    page = (await http.get("/metrics")).text
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert float(values['patchbay_requests_total{adapter="sql",status="200"}']) >= 1
    assert float(values['patchbay_generated_tokens_total{adapter="sql"}']) >= 8
    assert float(values['patchbay_time_to_first_token_seconds_count{adapter="sql"}']) >= 1
    assert float(values["patchbay_residents"]) >= 3
    assert any(name.startswith("vllm:generation_tokens_total") for name in values)
