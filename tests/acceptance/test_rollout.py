"""A candidate under live traffic: a worse one rolls back by itself, a good one is promoted, no request fails."""

from __future__ import annotations

import asyncio
from collections import Counter

CLIENTS = 6
IS_SQL = {
    "type": "string_check",
    "name": "is_sql",
    "input": "{{sample.output_text}}",
    "reference": "SELECT",
    "operation": "ilike",
}
GUARDS = [
    {"type": "score", "grader": IS_SQL, "max_decrease": 0.3, "min_requests": 8},
    {"type": "error_rate", "max_increase": 0.05, "min_requests": 8},
    {"type": "time_to_first_token", "max_ratio": 20, "min_requests": 8},
]
ROLLOUT = "/v1/adapters/rolling/aliases/stable/rollout"
QUIET_S = 0.2


class Traffic:
    """Clients that ask the alias until they are stopped, every other one in streams; any error ends the test."""

    def __init__(self, server, questions: list[str]) -> None:
        self._server, self._questions = server, questions
        self._is_over = False
        self.answers: Counter[str] = Counter()
        self._clients: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Traffic:
        self._clients = [asyncio.create_task(self._ask(number)) for number in range(CLIENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._clients)

    async def _ask(self, number: int) -> None:
        asked = 0
        async with self._server.client() as client:
            while not self._is_over:
                question = self._questions[(number + asked) % len(self._questions)]
                request = {
                    "model": "rolling",
                    "messages": [{"role": "user", "content": question}],
                    "max_tokens": 24,
                    "temperature": 0,
                    "user": f"user-{number}-{asked % 8}",
                }
                if number % 2:
                    response = await client.chat.completions.create(**request)
                    self.answers[response.model] += 1
                else:
                    models = {
                        chunk.model async for chunk in await client.chat.completions.create(**request, stream=True)
                    }
                    assert len(models) == 1
                    self.answers[models.pop()] += 1
                asked += 1

    def check(self) -> None:
        """Raise the error of a client that has failed."""
        for client in self._clients:
            if client.done():
                client.result()


async def test_a_worse_candidate_rolls_back_by_itself_and_a_good_one_is_promoted(server, http, push, variant, held_out):
    for skill, scale in (("sql", 1.0), ("json", 1.0), ("sql", 0.95)):
        assert (await push("rolling", variant(skill, scale))).status_code == 201
    questions = [question for question, _ in held_out("sql")]

    async def ended(traffic: Traffic, candidate: int, **plan) -> dict:
        begun = await http.put(ROLLOUT, json={"candidate": candidate, "guards": GUARDS, "sticky": "user", **plan})
        assert begun.status_code == 200, begun.text
        residents = (await http.get("/v1/residents")).json()["data"]
        assert f"rolling@{candidate}" in {each["id"] for each in residents}
        while (rollout := (await http.get(ROLLOUT)).json())["state"] == "active":
            traffic.check()
            await asyncio.sleep(QUIET_S)
        return rollout

    async with Traffic(server, questions) as traffic:
        worse = await ended(traffic, 2, weight=50)
        assert (worse["state"], worse["reason"]["guard"]) == ("rolled_back", "score")
        assert worse["sides"]["candidate"]["scores"]["is_sql"] < 0.5 < worse["sides"]["current"]["scores"]["is_sql"]
        assert worse["sides"]["current"]["time_to_first_token"] > 0
        assert traffic.answers["rolling@2"] >= 8

        shadowed = await ended(traffic, 2, shadow=50)
        assert (shadowed["state"], shadowed["reason"]["side"]) == ("rolled_back", "shadow")
        assert shadowed["sides"]["shadow"]["agreement"] < 1

        good = await ended(traffic, 3, steps=[30, 60, 100], step_requests=10)
        assert good["state"] == "promoted", good["reason"]
        assert good["sides"]["candidate"]["errors"] == good["sides"]["current"]["errors"] == 0
        alias = (await http.get("/v1/adapters/rolling/aliases/stable")).json()
        assert alias["version"] == 3
        before = traffic.answers["rolling@1"]
        seen = traffic.answers["rolling@3"]
        while traffic.answers["rolling@3"] < seen + 3 * CLIENTS:
            traffic.check()
            await asyncio.sleep(QUIET_S)
        assert traffic.answers["rolling@1"] <= before + CLIENTS  # those that were under way finish where they began
