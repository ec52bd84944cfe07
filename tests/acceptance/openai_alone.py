"""Calls OpenAI's client against a running server; imports nothing that an installation of `openai` does not bring.

    python openai_alone.py http://127.0.0.1:8000/v1 [FUNCTION...]

Prints each function that failed with its traceback; the exit status is their number.
"""

from __future__ import annotations

import io
import json
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import openai
from openai import OpenAI
from pydantic import BaseModel

T = TypeVar("T")
TEXT = "Order for Ben: 29 green hats, deliver to Paris on Tuesday."
QUESTION: Any = [{"role": "user", "content": TEXT}]
ASKED: Any = {"model": "json", "messages": QUESTION, "temperature": 0, "max_tokens": 64}
RESPONSE: Any = {"model": "json", "input": TEXT, "temperature": 0, "max_output_tokens": 64}
CHAT = "/v1/chat/completions"
ENDED = {"completed", "succeeded", "failed", "cancelled", "expired"}


class Paint(BaseModel):
    """Arguments that any model ends, because there is no free text among them."""

    color: Literal["red", "blue"]


class Move(BaseModel):
    where: Literal["up", "down"]


class Order(BaseModel):
    qty: int
    urgent: bool


TOOLS: Any = [openai.pydantic_function_tool(Paint, name="paint"), openai.pydantic_function_tool(Move, name="move")]
PAINT: Any = {"type": "function", "function": {"name": "paint"}}


def until_ended(retrieve: Callable[[str], T], name: str) -> T:
    deadline = time.monotonic() + 600
    while (shown := retrieve(name)).status not in ENDED:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline, shown
        time.sleep(0.2)
    return shown


def not_found(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """Return the message with which a call is refused, because what it names is not there."""
    try:
        found = call(*arguments, **options)
    except openai.NotFoundError as error:
        return error.message
    raise AssertionError(f"there is {found}")


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def called(message: Any) -> list[tuple[str, str]]:
    """The name of each tool that a message calls, with the value of its one argument."""
    return [
        (call.function.name, *json.loads(call.function.arguments).values())
        for call in sorted(message.tool_calls or [], key=lambda call: call.function.name)
    ]


def models(client: OpenAI) -> None:
    assert {"embedded-base", "json", "sql"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("json").id == "json"
    assert "nowhere" in not_found(client.models.retrieve, "nowhere")
    for model in ("nowhere", "json@99"):
        assert model.partition("@")[0] in not_found(client.chat.completions.create, **{**ASKED, "model": model})


def chat(client: OpenAI) -> None:
    whole = client.chat.completions.create(**ASKED)
    text = whole.choices[0].message.content
    assert text
    assert "29" in text
    chunks = list(client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    with client.chat.completions.stream(**ASKED) as stream:
        assert stream.get_final_completion().choices[0].message.content == text
    raw = client.chat.completions.with_raw_response.create(**ASKED, logprobs=True, top_logprobs=2)
    assert raw.headers["x-request-id"]
    assert "".join(token.token for token in raw.parse().choices[0].logprobs.content).startswith(text)
    assert client.completions.create(model="sql", prompt="SELECT", max_tokens=8).usage.completion_tokens <= 8


def auto_tools(client: OpenAI) -> None:
    """Two calls in one answer, as a model writes them that calls of its own accord: here a grammar makes it write so.

    That a model which was trained on calls does so without one is in test_training.py.
    """
    written = r'<tool_call>\n\{"name": "%s", "arguments": \{"%s": "(%s)"\}\}\n</tool_call>'
    grammar = "\\n".join(written % call for call in (("move", "where", "up|down"), ("paint", "color", "red|blue")))
    tools = [{**tool, "function": {**tool["function"], "strict": False}} for tool in TOOLS]
    asked = {**ASKED, "tools": tools, "tool_choice": "auto", "max_tokens": 128}
    asked["extra_body"] = {"structured_outputs": {"regex": grammar}}
    whole = client.chat.completions.create(**asked).choices[0]
    assert ([name for name, _ in called(whole.message)], whole.finish_reason) == (["move", "paint"], "tool_calls")
    assert len({call.id for call in whole.message.tool_calls}) == 2
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert (called(streamed.message), streamed.finish_reason) == (called(whole.message), "tool_calls")
    results = [{"role": "tool", "tool_call_id": call.id, "content": "It is done."} for call in whole.message.tool_calls]
    answered: Any = [*QUESTION, whole.message.to_dict(), *results]
    assert client.chat.completions.create(**{**ASKED, "messages": answered, "tools": tools}).choices[0].message.content


def demanded_tools(client: OpenAI) -> None:
    for choice, names in (("required", {"paint", "move"}), (PAINT, {"paint"})):
        asked = {**ASKED, "tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
        whole = client.chat.completions.create(**asked).choices[0]
        assert {name for name, _ in called(whole.message)} <= names
        assert len(whole.message.tool_calls) == 1
        with client.chat.completions.stream(**asked) as stream:
            assert called(stream.get_final_completion().choices[0].message) == called(whole.message)
        parsed = client.chat.completions.parse(**asked).choices[0].message.tool_calls[0].function
        assert isinstance(parsed.parsed_arguments, Paint | Move)
    assert not client.chat.completions.create(**ASKED, tools=TOOLS, tool_choice="none").choices[0].message.tool_calls


def parse(client: OpenAI) -> None:
    whole = client.chat.completions.parse(**ASKED, response_format=Order).choices[0].message
    assert isinstance(whole.parsed, Order)
    with client.chat.completions.stream(**ASKED, response_format=Order) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == whole.parsed
    parsed = client.responses.parse(**RESPONSE, text_format=Order)
    assert isinstance(parsed.output_parsed, Order)
    with client.responses.stream(**RESPONSE, text_format=Order) as events:
        assert events.get_final_response().output_parsed == parsed.output_parsed
    assert client.responses.retrieve(parsed.id).output_text == parsed.output_text


def responses(client: OpenAI) -> None:
    first = client.responses.create(**RESPONSE, instructions="Answer with JSON.")
    assert "29" in first.output_text
    assert client.responses.retrieve(first.id).output_text == first.output_text
    events = list(client.responses.create(**RESPONSE, previous_response_id=first.id, stream=True))
    assert events[-1].type == "response.completed"
    second = events[-1].response
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == second.output_text
    assert client.responses.retrieve(second.id).previous_response_id == first.id
    texts = [item.content[0].text for item in client.responses.input_items.list(second.id, order="asc")]
    assert texts == [TEXT, first.output_text, TEXT]
    client.responses.delete(first.id)
    assert first.id in not_found(client.responses.retrieve, first.id)


def tools_of_responses(client: OpenAI) -> None:
    asked = client.responses.parse(**RESPONSE, tools=TOOLS, tool_choice={"type": "function", "name": "paint"})
    call = asked.output[-1]
    assert (call.type, call.name) == ("function_call", "paint")
    assert isinstance(call.parsed_arguments, Paint)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It is painted."}
    after = client.responses.create(**{**RESPONSE, "input": [result]}, previous_response_id=asked.id)
    assert after.output_text
    assert [item.type for item in client.responses.input_items.list(after.id, order="asc")][-2:] == [
        "function_call",
        "function_call_output",
    ]


def files(client: OpenAI) -> None:
    content = lines([{"messages": [*QUESTION, {"role": "assistant", "content": "29"}]}])
    file = client.files.create(file=("orders.jsonl", content), purpose="fine-tune")
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert client.files.retrieve(file.id).bytes == len(content)
    assert file.id in {each.id for each in client.files.list(purpose="fine-tune")}
    assert client.files.content(file.id).read() == content
    assert client.files.delete(file.id).deleted
    assert file.id not in {each.id for each in client.files.list()}


def uploads(client: OpenAI) -> None:
    content = lines([{"messages": [*QUESTION, {"role": "assistant", "content": "29"}]}] * 100)
    options: Any = {"filename": "orders.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    done = client.uploads.upload_file_chunked(file=content, bytes=len(content), part_size=5000, **options)
    assert done.status == "completed"
    assert client.files.content(done.file.id).read() == content
    upload = client.uploads.create(bytes=len(content), **options)
    parts = [client.uploads.parts.create(upload.id, data=io.BytesIO(half)) for half in (content[:700], content[700:])]
    completed = client.uploads.complete(upload.id, part_ids=[part.id for part in parts])
    assert client.files.content(completed.file.id).read() == content
    assert client.uploads.cancel(client.uploads.create(bytes=1, **options).id).status == "cancelled"
    for file in (done.file, completed.file):
        client.files.delete(file.id)


def batches(client: OpenAI) -> None:
    bodies = [ASKED, {**ASKED, "messages": [{"role": "user", "content": TEXT * 1000}]}]  # longer than the context
    rows = [
        {"custom_id": f"{number}", "method": "POST", "url": CHAT, "body": body} for number, body in enumerate(bodies)
    ]
    file = client.files.create(file=("requests.jsonl", lines(rows)), purpose="batch")
    options: Any = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    batch = until_ended(client.batches.retrieve, client.batches.create(**options, metadata={"of": "a test"}).id)
    assert (batch.status, batch.metadata) == ("completed", {"of": "a test"})
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    answered = json.loads(client.files.content(batch.output_file_id).text)
    expected = client.chat.completions.create(**ASKED).choices[0].message.content
    assert answered["response"]["body"]["choices"][0]["message"]["content"] == expected
    assert json.loads(client.files.content(batch.error_file_id).text)["custom_id"] == "1"
    assert batch.id in {each.id for each in client.batches.list()}
    file = client.files.create(file=("requests.jsonl", lines(rows[:1])), purpose="batch")
    other = client.batches.create(**{**options, "input_file_id": file.id})
    assert client.batches.cancel(other.id).status in {"cancelling", "cancelled"}
    assert until_ended(client.batches.retrieve, other.id).status == "cancelled"


def fine_tuning(client: OpenAI) -> None:
    row = {"messages": [*QUESTION, {"role": "assistant", "content": "29 hats"}]}
    file = client.files.create(file=("orders.jsonl", lines([row] * 10)), purpose="fine-tune")
    options: Any = {
        "model": "embedded-base",
        "training_file": file.id,
        "suffix": "alone",
        "seed": 1,
        "metadata": {"of": "a test"},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 2}}},
    }
    job = client.fine_tuning.jobs.create(**options)
    other = client.fine_tuning.jobs.create(**options)
    assert client.fine_tuning.jobs.cancel(other.id).id == other.id
    job = until_ended(client.fine_tuning.jobs.retrieve, job.id)
    assert (job.status, job.metadata) == ("succeeded", {"of": "a test"}), job.error
    assert until_ended(client.fine_tuning.jobs.retrieve, other.id).status == "cancelled"
    assert {job.id, other.id} <= {each.id for each in client.fine_tuning.jobs.list()}
    assert job.fine_tuned_model in "".join(event.message for event in client.fine_tuning.jobs.list_events(job.id))
    assert {each.fine_tuning_job_id for each in client.fine_tuning.jobs.checkpoints.list(job.id)} == {job.id}
    assert client.files.content(job.result_files[0]).text.startswith("step")
    assert client.chat.completions.create(**{**ASKED, "model": job.fine_tuned_model}).choices[0].message.content


CALLS = (
    models,
    chat,
    auto_tools,
    demanded_tools,
    parse,
    responses,
    tools_of_responses,
    files,
    uploads,
    batches,
    fine_tuning,
)


def main(url: str, *names: str) -> int:
    client = OpenAI(base_url=url, api_key="unused", timeout=120, max_retries=0)
    failed = 0
    for call in [call for call in CALLS if not names or call.__name__ in names]:
        try:
            call(client)
        except Exception:  # noqa: BLE001  whatever it raises, the others are tried as well
            failed += 1
            print(f"{call.__name__} failed:\n{traceback.format_exc()}", flush=True)
        else:
            print(f"{call.__name__} works", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
