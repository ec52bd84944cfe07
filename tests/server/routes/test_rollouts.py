"""The rollout of an alias over HTTP: who gets which side, guards, steps, shadow, promotion and rollback."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from server.access.scope import Scope
from server.engine.fake import FakeBuilder
from server.residency.quarantine import QuarantineReason
from tests.server.opened import BASE, CHAT, Opened, Opening
from tests.until import until

STABLE = "/v1/adapters/sql/aliases/stable"
ROLLOUT = f"{STABLE}/rollout"
SAYS_ITS_NAME = {
    "type": "string_check",
    "name": "first",
    "input": "{{sample.output_text}}",
    "reference": "sql@1",
    "operation": "like",
}


@pytest.fixture(autouse=True)
async def three_versions(opened: Opened) -> None:
    for seed in (1, 2, 3):
        await opened.publish("sql", seed)


async def begin(opened: Opened, candidate: int = 2, **body: Any) -> dict[str, Any]:
    response = await opened.client.put(ROLLOUT, json={"candidate": candidate, **body})
    assert response.status_code == 200, response.text
    begun: dict[str, Any] = response.json()
    return begun


async def shown(opened: Opened) -> dict[str, Any]:
    found: dict[str, Any] = (await opened.client.get(ROLLOUT)).json()
    return found


async def until_state(opened: Opened, state: str) -> dict[str, Any]:
    async def is_there() -> dict[str, Any] | None:
        found = await shown(opened)
        return found if found["state"] == state else None

    found: dict[str, Any] = await until(is_there, every_s=0.05)
    return found


async def answered_by(opened: Opened, **body: Any) -> str:
    response = await opened.chat("sql", **body)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == response.headers["x-patchbay-adapter"]
    is_candidate = response.headers["x-patchbay-rollout"] == "candidate"
    assert is_candidate == (response.json()["model"] == "sql@2")
    model: str = response.json()["model"]
    return model


async def test_the_candidate_answers_its_share(opened: Opened) -> None:
    await begin(opened, weight=40)
    counted = Counter([await answered_by(opened) for _ in range(200)])
    assert 40 < counted["sql@2"] < 120


async def test_a_user_stays_on_one_side_and_with_the_candidate_while_the_weight_grows(opened: Opened) -> None:
    users = [f"user-{number}" for number in range(60)]

    async def candidates_users() -> set[str]:
        return {user for user in users if await answered_by(opened, user=user) == "sql@2"}

    first = await begin(opened, weight=20, sticky="user")
    few = await candidates_users()
    assert few == await candidates_users()
    assert 0 < len(few) < 30
    grown = await begin(opened, weight=60, sticky="user")
    assert (grown["id"], grown["generation"]) == (first["id"], 2)
    many = await candidates_users()
    assert few < many
    await begin(opened, weight=20, sticky="user")
    assert await candidates_users() == few


async def test_the_newer_names_of_a_user_decide_as_well(opened: Opened) -> None:
    await begin(opened, weight=50, sticky="user")
    for number in range(8):
        user = f"user-{number}"
        sides = {await answered_by(opened, **{field: user}) for field in ("user", "safety_identifier")}
        sides.add(await answered_by(opened, metadata={"user_id": user}))
        assert len(sides) == 1


async def test_a_header_that_the_rollout_names_decides(opened: Opened) -> None:
    await begin(opened, weight=50, sticky="header", header="X-Tenant")

    async def side(tenant: str) -> str:
        body = {"model": "sql@stable", "messages": []}
        return str((await opened.client.post(CHAT, json=body, headers={"x-tenant": tenant})).json()["model"])

    sides = {tenant: await side(tenant) for tenant in map(str, range(20))}
    assert set(sides.values()) == {"sql@1", "sql@2"}
    assert {tenant: await side(tenant) for tenant in sides} == sides


async def test_a_key_stays_on_one_side(opened: Opened) -> None:
    await begin(opened, weight=50, sticky="key")
    sides = set()
    for number in range(12):
        _, secret = await opened.state.keys.create(f"key-{number}", [Scope.INFER])
        opened.client.headers["authorization"] = f"Bearer {secret}"
        of_key = {await answered_by(opened) for _ in range(5)}
        assert len(of_key) == 1
        sides |= of_key
    assert sides == {"sql@1", "sql@2"}


async def test_explicit_versions_and_other_aliases_are_untouched(opened: Opened, client: httpx.AsyncClient) -> None:
    await client.put("/v1/adapters/sql/aliases/prod", json={"version": 3})
    await begin(opened, weight=100)
    for model, version in (("sql", "sql@2"), ("sql@stable", "sql@2"), ("sql@1", "sql@1"), ("sql@prod", "sql@3")):
        response = await opened.chat(model)
        assert response.json()["model"] == version
        assert ("x-patchbay-rollout" in response.headers) == (model in {"sql", "sql@stable"})


async def test_the_candidate_is_resident_before_a_request_meets_it(opened: Opened) -> None:
    await begin(opened, weight=100)
    assert opened.residents["sql@2"] == ("resident", 0)
    assert await answered_by(opened) == "sql@2"


async def test_a_candidate_that_the_engine_refuses_begins_no_rollout(opened: Opened, client: httpx.AsyncClient) -> None:
    opened.builder.knobs.is_refusing_loads = True
    refused = await client.put(ROLLOUT, json={"candidate": 2, "weight": 10})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "adapter_refused")
    assert (await client.get(ROLLOUT)).json()["error"]["code"] == "rollout_not_found"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_candidate_that_fails_rolls_back_by_itself_with_numbers_in_the_audit_log(
    opened: Opened,
    stream: bool,
) -> None:
    opened.builder.knobs.failing = frozenset({"sql@2"})
    begun = await begin(
        opened, weight=50, guards=[{"type": "error_rate", "max_increase": 0.2, "min_requests": 5}], sticky="user"
    )

    async def is_rolled_back() -> bool:
        await asyncio.gather(*(opened.chat("sql", user=str(number), stream=stream) for number in range(20)))
        return bool((await shown(opened))["state"] == "rolled_back")

    await until(is_rolled_back)
    ended = await shown(opened)
    assert (ended["weight"], ended["reason"]["code"]) == (0, "guard_broken")
    assert ended["reason"]["guard"] == "error_rate"
    assert (ended["reason"]["current"], ended["reason"]["candidate"], ended["reason"]["limit"]) == (0, 1, 0.2)
    assert ended["sides"]["candidate"]["error_rate"] == 1
    assert {(await opened.chat("sql", user=str(number))).status_code for number in range(20)} == {200}

    async def rows() -> list[dict[str, Any]]:
        rows = (await opened.client.get("/v1/audit")).json()["data"]
        return [row for row in rows if row["action"] == "rollout rollback"]

    (row,) = await until(rows)
    assert row["parameters"]["reason"]["candidate_requests"] >= 5
    assert row["result"] == begun["id"]


async def test_a_candidate_that_answers_worse_rolls_back_by_its_scores(opened: Opened) -> None:
    guard = {"type": "score", "grader": SAYS_ITS_NAME, "max_decrease": 0.5, "min_requests": 5}
    await begin(opened, weight=50, guards=[guard])

    async def is_rolled_back() -> bool:
        answers = await asyncio.gather(*(opened.chat("sql", stream=number % 2 == 0) for number in range(10)))
        assert {answer.status_code for answer in answers} == {200}
        return bool((await shown(opened))["state"] == "rolled_back")

    await until(is_rolled_back)
    ended = await shown(opened)
    assert ended["reason"]["guard"] == "score"
    assert {side: ended["sides"][side]["scores"]["first"] for side in ("current", "candidate")} == {
        "current": 1.0,
        "candidate": 0.0,
    }


async def test_a_good_candidate_goes_up_its_steps_and_is_promoted(opened: Opened) -> None:
    guards = [{"type": "error_rate", "min_requests": 3}]
    begun = await begin(opened, steps=[20, 60, 100], step_requests=5, guards=guards)
    assert begun["weight"] == 20
    weights = []

    async def is_promoted() -> bool:
        await asyncio.gather(*(opened.chat("sql") for _ in range(20)))
        weights.append((found := await shown(opened))["weight"])
        return bool(found["state"] == "promoted")

    await until(is_promoted)
    assert sorted(set(weights)) == weights or sorted(weights) == weights
    assert set(weights) <= {20, 60, 100}
    assert (await opened.client.get(STABLE)).json()["version"] == 2
    assert "x-patchbay-rollout" not in (await opened.chat("sql")).headers


async def test_a_shadow_is_compared_and_never_answers(opened: Opened) -> None:
    await begin(opened, shadow=100)
    for number in range(6):
        assert (await opened.chat("sql", stream=number % 2 == 0)).headers["x-patchbay-adapter"] == "sql@1"

    async def compared() -> dict[str, Any] | None:
        found = (await shown(opened))["sides"]["shadow"]
        return found if found["compared"] == 6 else None

    shadow = await until(compared, every_s=0.05)
    assert (shadow["requests"], shadow["errors"], shadow["equal"]) == (6, 0, 0)
    assert 0 <= shadow["agreement"] <= 1
    assert (await shown(opened))["sides"]["candidate"]["requests"] == 0


async def test_a_shadow_that_fails_fails_no_request_and_rolls_back(opened: Opened) -> None:
    opened.builder.knobs.failing = frozenset({"sql@2"})
    await begin(opened, shadow=100, guards=[{"type": "error_rate", "min_requests": 3}])
    for _ in range(6):
        assert (await opened.chat("sql")).status_code == 200
    ended = await until_state(opened, "rolled_back")
    assert ended["reason"]["side"] == "shadow"


async def test_a_shadow_acts_for_the_key_that_set_it_and_ends_with_that_key(opened: Opened) -> None:
    keys = opened.state.keys
    setter, secret = await keys.create("setter", [Scope.ADMIN])
    _, caller = await keys.create("caller", [Scope.INFER, Scope.ADMIN])
    opened.client.headers["authorization"] = f"Bearer {secret}"
    await begin(opened, shadow=100)
    opened.client.headers["authorization"] = f"Bearer {caller}"
    await opened.chat("sql")

    async def shadow(name: str) -> bool:
        return bool((await shown(opened))["sides"]["shadow"][name] == 1)

    await until(lambda: shadow("compared"), every_s=0.05)
    await keys.revoke(setter.id)
    assert (await opened.chat("sql")).status_code == 200
    await until(lambda: shadow("dropped"), every_s=0.05)
    assert await shadow("requests")


async def test_a_shadow_needs_a_key_that_may_ask_models(opened: Opened, client: httpx.AsyncClient) -> None:
    _, secret = await opened.state.keys.create("mover", [Scope.ALIASES_WRITE])
    client.headers["authorization"] = f"Bearer {secret}"
    assert (await client.put(ROLLOUT, json={"candidate": 2, "shadow": 5})).status_code == 403
    assert (await client.put(ROLLOUT, json={"candidate": 2, "weight": 5})).status_code == 200


async def test_a_quarantined_candidate_rolls_back(opened: Opened) -> None:
    await begin(opened, weight=50)
    opened.state.quarantine.add(opened.state.registry.catalog.version("sql", 2), QuarantineReason.NAN)
    ended = await until_state(opened, "rolled_back")
    assert ended["reason"]["code"] == "candidate_unusable"


async def test_a_server_without_an_engine_takes_a_rollout_and_loads_its_candidate_later(opened: Opened) -> None:
    opened.builder.knobs.start_failures = 1
    opened.engine.die()
    await begin(opened, weight=100)
    await opened.until_ready()

    async def is_answered() -> bool:
        return bool((await opened.chat("sql")).headers.get("x-patchbay-rollout") == "candidate")

    await until(is_answered, every_s=0.02)


async def test_a_stream_finishes_where_it_began_while_the_candidate_is_promoted(opened: Opened) -> None:
    await begin(opened, weight=1)
    call = opened.call("sql", words=40)
    status, headers = await call.start()
    assert (status, headers["x-patchbay-rollout"]) == (200, "current")
    promoted = (await opened.client.post(f"{ROLLOUT}/promote")).json()
    assert (promoted["state"], promoted["candidate"]) == ("promoted", 2)
    assert await opened.answer("sql") == "sql@2"
    text = await call.rest()
    assert text.count('"content": "sql@1 "') == 40
    assert "sql@2" not in text


async def test_promotion_and_rollback_are_compare_and_set(opened: Opened, client: httpx.AsyncClient) -> None:
    await begin(opened, weight=10)
    await begin(opened, weight=20)
    for verb in ("promote", "rollback"):
        lost = await client.post(f"{ROLLOUT}/{verb}", json={"generation": 1})
        assert (lost.status_code, lost.json()["error"]["code"]) == (409, "rollout_changed")
        assert lost.json()["error"]["current"] == {"generation": 2}
    calls = [client.post(f"{ROLLOUT}/{verb}", json={"generation": 2}) for verb in ("promote", "rollback") * 3]
    statuses = sorted([response.status_code for response in await asyncio.gather(*calls)])
    assert statuses == [200] + [404] * 5


async def test_a_rollback_sends_all_requests_to_the_current_version(opened: Opened, client: httpx.AsyncClient) -> None:
    await begin(opened, weight=100)
    ended = (await client.post(f"{ROLLOUT}/rollback")).json()
    assert (ended["state"], ended["weight"], ended["reason"]["code"]) == ("rolled_back", 0, "by_caller")
    assert await opened.answer("sql") == "sql@1"
    assert (await client.post(f"{ROLLOUT}/rollback")).status_code == 404


async def test_a_deleted_rollout_is_shown_as_ended(opened: Opened, client: httpx.AsyncClient) -> None:
    begun = await begin(opened, weight=100)
    deleted = (await client.delete(ROLLOUT)).json()
    assert deleted == {"object": "adapter.rollout", "id": begun["id"], "deleted": True}
    assert (await shown(opened))["state"] == "ended"
    assert await opened.answer("sql") == "sql@1"


@pytest.mark.parametrize(
    ("method", "path", "body", "state", "code"),
    [
        ("PUT", STABLE, {"version": 3}, "ended", "alias_moved"),
        ("PUT", STABLE, {"version": 2}, "promoted", None),
        ("PUT", ROLLOUT, {"candidate": 3, "weight": 1}, "ended", "replaced"),
        ("DELETE", "/v1/adapters/sql/versions/2", None, "ended", "candidate_deleted"),
    ],
)
async def test_what_happens_to_alias_and_candidate_ends_the_rollout(
    opened: Opened, method: str, path: str, body: Any, state: str, code: str | None
) -> None:
    begun = await begin(opened, weight=100)
    assert (await opened.client.request(method, path, json=body)).status_code == 200
    if code == "replaced":
        assert (await shown(opened))["id"] != begun["id"]
        return
    ended = await shown(opened)
    assert (ended["id"], ended["state"]) == (begun["id"], state)
    assert (ended["reason"] or {}).get("code") == code


async def test_a_rollout_survives_a_restart_and_its_candidate_answers_at_once(opening: Opening, opened: Opened) -> None:
    await begin(opened, weight=100, sticky="user")
    async with opening() as restarted:
        assert (await restarted.chat("sql", user="u")).json()["model"] == "sql@2"


async def test_two_servers_on_one_database_see_the_same_rollout(opening: Opening, opened: Opened) -> None:
    async with opening(builder=FakeBuilder(BASE), follow_interval_s=0.01) as other:
        await begin(opened, weight=50, sticky="user")

        async def agree() -> bool:
            sides = [
                [(await server.chat("sql", user=str(number))).json()["model"] for number in range(20)]
                for server in (opened, other)
            ]
            return sides[0] == sides[1] and "sql@2" in sides[0]

        await until(agree)
        await other.client.post(f"{ROLLOUT}/rollback")
        await until(lambda: not opened.state.registry.catalog.rollouts() or opened.state.registry.try_refresh())
        counts = (await shown(opened))["sides"]
        assert counts["current"]["requests"] + counts["candidate"]["requests"] >= 20


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"weight": 5}, "candidate"),
        ({"candidate": 2, "weight": 101}, "weight"),
        ({"candidate": 2, "weight": 0.001}, "weight"),
        ({"candidate": 2, "weight": 1, "sticky": "cookie"}, "sticky"),
        ({"candidate": 2, "weight": 1, "wieght": 2}, "wieght"),
        ({"candidate": 2, "weight": 1, "guards": [{"type": "latency", "max_ratio": 0.5}]}, "guards.0.latency"),
        ({"candidate": 2, "weight": 1, "guards": [{"type": "score", "grader": {"type": "nope"}}]}, "guards.0.grader"),
        (
            {"candidate": 2, "weight": 1, "guards": [
                {"type": "score", "grader": {**SAYS_ITS_NAME, "reference": "{{ item.answer }}"}}
            ]},
            "guards.0.grader",
        ),
        (
            {"candidate": 2, "weight": 1, "guards": [
                {"type": "score", "grader": {
                    "type": "multi", "graders": {"a": {"type": "reward_model", "model": "sql"}}, "calculate_output": "a"
                }}
            ]},
            "guards.0.grader",
        ),
    ],
)  # fmt: skip
async def test_a_wrong_body_begins_nothing_and_names_its_field(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    refused = await client.put(ROLLOUT, json=body)
    assert refused.status_code == 400, refused.text
    assert str(refused.json()["error"]["param"]).startswith(param)
    assert (await client.get(ROLLOUT)).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"candidate": 2},
        {"candidate": 2, "weight": 1, "sticky": "header"},
        {"candidate": 2, "weight": 1, "header": "x-tenant"},
        {"candidate": 2, "weight": 1, "sticky": "header", "header": "Authorization"},
        {"candidate": 2, "steps": [10, 5]},
        {"candidate": 2, "steps": [0, 5]},
    ],
)
async def test_fields_that_do_not_fit_together_are_refused(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert (await client.put(ROLLOUT, json=body)).status_code == 400


async def test_a_candidate_that_is_there_already_or_not_at_all_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.put(ROLLOUT, json={"candidate": 1, "weight": 5})).status_code == 409
    assert (await client.put(ROLLOUT, json={"candidate": 9, "weight": 5})).status_code == 404
    missing = ROLLOUT.replace("stable", "missing")
    assert (await client.put(missing, json={"candidate": 2, "weight": 5})).json()["error"]["code"] == "alias_not_found"


async def test_requests_are_counted_by_side_in_the_metrics(opened: Opened) -> None:
    await begin(opened, weight=100)
    await opened.chat("sql")
    page = (await opened.client.get("/metrics")).text
    assert 'patchbay_rollout_requests_total{adapter="sql",outcome="ok",side="candidate"} 1.0' in page


GATED = {"version": 1, "require": "no_worse"}


async def judged(opened: Opened, number: int, result: str) -> None:
    """Write a verdict into a version's report, by hand."""
    async with opened.state.registry.write() as rows:
        adapter = await rows.changing_adapter("sql")
        row = await rows.living_version(adapter, number)
        await rows.add_to_report(row, {"verdict": {"result": result, "of": {"score": 0.4, "before": 0.6}}})


async def forced_rows(opened: Opened) -> list[str]:
    rows = (await opened.client.get("/v1/audit")).json()["data"]
    return [row["action"].split()[0] for row in rows if row["parameters"].get("force") is True]


async def test_a_gate_refuses_a_move_with_numbers_and_a_forced_one_is_on_record(
    opened: Opened, client: httpx.AsyncClient
) -> None:
    assert (await client.put(STABLE, json=GATED)).json()["require"] == "no_worse"
    await judged(opened, 2, "worse")
    for path, body in (
        (STABLE, {"version": 2}),
        ("/v1/adapters/sql/promote", {"version": 2}),
        (ROLLOUT, {"candidate": 2, "weight": 5}),
    ):
        refused = await client.request("POST" if "promote" in path else "PUT", path, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "verdict_needed")
        assert refused.json()["error"]["verdict"]["of"] == {"score": 0.4, "before": 0.6}
        assert "force" in refused.json()["error"]["message"]
    assert "sql@2" not in opened.residents or opened.residents["sql@2"][1] == 0
    assert await forced_rows(opened) == []
    assert (await client.put(STABLE, json={"version": 2, "force": True})).status_code == 200
    assert await forced_rows(opened) == ["PUT"]
    shown = (await client.get(STABLE)).json()
    assert [(move["to"], move["is_forced"]) for move in shown["moves"]] == [(1, False), (2, True)]


async def test_a_version_with_the_verdict_passes_the_gate_by_a_rollout_too(
    opened: Opened, client: httpx.AsyncClient
) -> None:
    await client.put(STABLE, json=GATED)
    await judged(opened, 3, "no_gain")
    await begin(opened, 3, weight=5)
    assert (await client.post(f"{ROLLOUT}/promote")).json()["state"] == "promoted"
    await begin(opened, 2, shadow=5)
    refused = await client.post(f"{ROLLOUT}/promote")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "verdict_needed")
    assert (await client.post(f"{ROLLOUT}/promote", json={"force": True})).status_code == 200
    assert await forced_rows(opened) == ["POST"]


async def test_a_publication_that_names_a_gated_alias_is_refused_before_its_checks(
    opened: Opened, client: httpx.AsyncClient
) -> None:
    await client.put(STABLE, json=GATED)
    files = opened.make_adapter(7).multipart()
    refused = await client.post("/v1/adapters/sql/versions", files=files, params={"alias": "stable"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "verdict_needed")
    assert (await opened.publish("sql", 7))["version"] == 4
