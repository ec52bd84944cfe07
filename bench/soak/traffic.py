"""Those who call the server during a soak until its end: chats, a publisher, a trainer, a user of batches."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from bench.scenarios.swap import variant
from bench.scenarios.training import DATA, held_out
from bench.soak.caller import AccountedClient, Json

CHAT: Final = "/v1/chat/completions"
BASE: Final = "embedded-base"
SKILLS: Final = ("sql", "json", "sentiment")
PUBLISHED: Final = ("soak-0", "soak-1", "soak-2")
KEPT: Final = 3
"""Versions of each published adapter that are not deleted again."""
LINES: Final = 40
QUESTIONS: Final = 12
ROWS: Final = 60
PAUSE_S: Final = 0.5
ENDED: Final = {"succeeded", "failed", "cancelled", "completed", "expired"}

IsOver = Callable[[], bool]
Traffic = Callable[[AccountedClient, IsOver], Awaitable[None]]


def chat_body(model: str, question: str) -> Json:
    return {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 48,
        "temperature": 0,
    }


async def right_answers(caller: AccountedClient) -> list[tuple[str, str, str]]:
    """Return held-out questions that the examples answer rightly, as adapter, question, answer."""
    right = []
    for skill in SKILLS:
        for question, expected in held_out(skill)[:QUESTIONS]:
            body = await caller.send("chat", "POST", CHAT, json=chat_body(skill, question))
            if body is not None and body["choices"][0]["message"]["content"] == expected:
                right.append((skill, question, expected))
    return right


async def chats(caller: AccountedClient, is_over: IsOver, asked: Sequence[tuple[str, str, str]]) -> None:
    """Ask ``asked`` in random order; half of the answers are streamed, and a wrong answer is a loss."""
    draw = random.Random()
    while not is_over():
        skill, question, expected = draw.choice(asked)
        if draw.random() < 0.5:
            answer = await caller.stream("chat, streamed", CHAT, chat_body(skill, question))
        else:
            body = await caller.send("chat", "POST", CHAT, json=chat_body(skill, question))
            answer = None if body is None else body["choices"][0]["message"]["content"]
        if answer is not None and answer != expected:
            caller.account.losses.append(f"chat: {skill} answered {answer!r} instead of {expected!r}")
        await asyncio.sleep(draw.random() * PAUSE_S)


async def publisher(caller: AccountedClient, is_over: IsOver, folder: Path) -> None:
    """Publish versions, ask each once, move ``stable`` back and forth, delete the oldest."""
    versions: dict[str, list[int]] = {name: [] for name in PUBLISHED}
    for number, name in zip(itertools.count(), itertools.cycle(PUBLISHED), strict=False):
        if is_over():
            return
        directory = variant(folder / f"v{number}", SKILLS[number % 2], strength=1 + number / 10_000)
        files = {path.name: (path.name, path.read_bytes()) for path in directory.iterdir()}
        made = await caller.send("upload", "POST", f"/v1/adapters/{name}/versions?alias=stable", files=files)
        if made is None:
            caller.account.doubt(("alias", name, "stable"))
            continue
        version = made["version"]
        versions[name].append(version)
        caller.account.acknowledge(("version", name, str(version)), made["digest"])
        caller.account.acknowledge(("alias", name, "stable"), str(version))
        await caller.send("chat", "POST", CHAT, json=chat_body(name, "List the author of books."))
        before = versions[name][-2] if len(versions[name]) > 1 else version
        for target in (before, version):
            key, route = ("alias", name, "stable"), f"/v1/adapters/{name}/aliases/stable"
            await caller.write("alias move", key, str(target), "PUT", route, json={"version": target})
        if len(versions[name]) > KEPT:
            oldest = versions[name].pop(0)
            route = f"/v1/adapters/{name}/versions/{oldest}"
            await caller.write("delete", ("version", name, str(oldest)), "", "DELETE", route)
        await asyncio.sleep(PAUSE_S)


async def trainer(caller: AccountedClient, is_over: IsOver) -> None:
    """Train small adapters, one job after the other; a job that ends otherwise than succeeded is a loss."""
    rows = b"\n".join((DATA / "sentiment" / "train.jsonl").read_bytes().splitlines()[:ROWS])
    for number in itertools.count():
        if is_over():
            return
        file = await upload_file(caller, "fine-tune", rows)
        if file is None:
            continue
        method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
        body = {"model": BASE, "training_file": file, "method": method, "adapter": f"job-{number}", "seed": number}
        job = await caller.send("job", "POST", "/v1/fine_tuning/jobs", json=body)
        if job is None:
            continue
        caller.account.acknowledge(("job", job["id"]), "succeeded")
        await until_ended(caller, "job status", f"/v1/fine_tuning/jobs/{job['id']}")


async def batch_user(caller: AccountedClient, is_over: IsOver) -> None:
    """Send batches, one after the other; a line without exactly one right answer is a loss."""
    pairs = held_out("sql")[:LINES]
    rows = [
        {"custom_id": str(number), "method": "POST", "url": CHAT, "body": chat_body("sql", question)}
        for number, (question, _) in enumerate(pairs)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    while not is_over():
        file = await upload_file(caller, "batch", content)
        if file is None:
            continue
        body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        made = await caller.send("batch", "POST", "/v1/batches", json=body)
        if made is None:
            continue
        caller.account.acknowledge(("batch", made["id"]), "completed")
        batch = await until_ended(caller, "batch status", f"/v1/batches/{made['id']}")
        if (counts := batch["request_counts"]) != {"total": len(rows), "completed": len(rows), "failed": 0}:
            caller.account.losses.append(f"batch {made['id']}: {counts} of {len(rows)} lines")
        await asyncio.sleep(PAUSE_S)


async def upload_file(caller: AccountedClient, purpose: str, content: bytes) -> str | None:
    """Upload a file; return its id, or None if the upload was refused or cut."""
    sent = {"data": {"purpose": purpose}, "files": {"file": ("rows.jsonl", content)}}
    file = await caller.send("file", "POST", "/v1/files", **sent)
    if file is None:
        return None
    caller.account.acknowledge(("file", file["id"]))
    return str(file["id"])


async def until_ended(caller: AccountedClient, kind: str, path: str) -> Json:
    """Poll a job or a batch until it has ended; return it."""
    while True:
        shown = await caller.send(kind, "GET", path)
        if shown is not None and shown["status"] in ENDED:
            return shown
        await asyncio.sleep(1)


async def found_on(caller: AccountedClient) -> dict[tuple[str, ...], str]:
    """Return everything that the server has, in the keys of the account."""
    found: dict[tuple[str, ...], str] = {}
    for name in PUBLISHED:
        adapter = await caller.send("account", "GET", f"/v1/adapters/{name}")
        if adapter is None:
            continue
        for alias, version in adapter["aliases"].items():
            found["alias", name, alias] = str(version)
        for version in await listed(caller, f"/v1/adapters/{name}/versions"):
            found["version", name, str(version["version"])] = version["digest"]
    for kind, path in (("job", "/v1/fine_tuning/jobs"), ("batch", "/v1/batches"), ("file", "/v1/files")):
        for each in await listed(caller, path):
            found[kind, each["id"]] = "" if kind == "file" else each["status"]
    return found


async def listed(caller: AccountedClient, path: str) -> list[Json]:
    """Return all entries of a list route, page by page."""
    entries: list[Json] = []
    after: dict[str, str] = {}
    while (page := await caller.send("account", "GET", path, params={"limit": 100, **after})) is not None:
        entries += page["data"]
        if not page.get("has_more"):
            break
        after = {"after": page["last_id"]}
    return entries
