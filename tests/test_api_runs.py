"""``/api/v1``: runs are asked for and looked at, as is what waits for a later one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import insert

from syncd import tables
from tests.serving import V1, Site, problem


async def _ended(one: Site) -> None:
    for task in list(one.parts.engine._tasks):
        await task


async def test_runs_are_listed_backwards_and_each_is_found_by_its_id(both: Site) -> None:
    (one,) = await both.connect("acme")
    for _ in range(3):
        await both.parts.engine.cycle("slack", trigger="cli")
        await both.parts.store.connections.set_active(one, active=True)
    page = await both.get(f"{V1}/connections/{one}/runs?limit=2")
    last, before = page.json()
    (first,) = (await both.get(page.links["next"]["url"])).json()
    assert last["id"] > before["id"] > first["id"]
    assert (last["status"], last["error_kind"]) == ("failed", "transient")
    assert (await both.get(f"{V1}/runs/{first['id']}")).json() == first


async def test_the_backlog_is_listed_page_by_page(both: Site) -> None:
    (one,) = await both.connect("acme")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    async with both.parts.store.database.write() as session:
        for number in range(3):
            item = {"connection_id": one, "stream": "s", "external_id": f"e{number}", "reason": "not ready"}
            times = {"next_try_at": now, "created_at": now + timedelta(hours=number)}
            await session.execute(insert(tables.backlog).values(attempts=0, **item, **times))
    page = await both.get(f"{V1}/connections/{one}/backlog?limit=2")
    rest = await both.get(page.links["next"]["url"])
    assert [item["external_id"] for item in page.json() + rest.json()] == ["e0", "e1", "e2"]
    assert page.json()[0]["created_at"] == "2026-01-01T00:00:00Z"


# ── asking for a run


async def test_a_run_is_asked_for_and_can_be_watched(both: Site) -> None:
    (one,) = await both.connect("acme")
    answer = await both.send("POST", f"{V1}/sync", {"connection_id": one, "sweep": True})
    (asked,) = answer.json()["asked"]
    await _ended(both)
    run = (await both.get(f"{V1}/runs/{asked['run_id']}")).json()
    assert (answer.status_code, asked["started"], run["connection_id"], run["cycle_id"]) == (
        202,
        True,
        one,
        asked["cycle_id"],
    )


async def test_a_run_that_did_not_start_says_why(bare: Site) -> None:
    (one,) = await bare.connect("acme", is_active=False)
    said = problem(await bare.send("POST", f"{V1}/sync", {"connection_id": one}), 409, "it is paused: resume it first")
    assert [asked["started"] for asked in said["asked"]] == [False]
    problem(await bare.send("POST", f"{V1}/sync", {"source": "slack"}), 409, "slack: nothing to read: 1 paused")
    problem(await bare.send("POST", f"{V1}/sync", {"workspace": "nosuch"}), 409, "no connection of workspace nosuch")


async def test_a_source_or_a_workspace_is_asked_for_as_a_whole(bare: Site) -> None:
    await bare.connect("w1", "w2")
    by_source = await bare.send("POST", f"{V1}/sync", {"source": "slack"})
    await _ended(bare)
    by_workspace = await bare.send("POST", f"{V1}/sync", {"workspace": "w2"})
    await _ended(bare)
    for answer in (by_source, by_workspace):
        assert [asked["source"] for asked in answer.json()["asked"]] == ["slack"], answer.text
    (one, two) = [row.id for row in await bare.parts.store.connections.all()]
    assert len((await bare.get(f"{V1}/connections/{one}/runs")).json()) == 1
    assert len((await bare.get(f"{V1}/connections/{two}/runs")).json()) == 2


async def test_what_to_read_must_be_said_in_one_way(bare: Site) -> None:
    (one,) = await bare.connect("acme")
    for body, status, words in (
        ({}, 422, "name a connection_id, a source or a workspace"),
        ({"connection_id": one, "source": "slack"}, 422, "name a connection, or"),
        ({"connection_id": str(one)}, 422, "a whole number"),
        ({"connection_id": True}, 422, "a whole number"),
        ({"connection_id": 99}, 404, "there is no connection 99"),
        ({"connection_id": 2**63}, 404, "there is no connection"),
        ({"source": "teams"}, 422, "unknown source"),
        ({"workspace": ""}, 422, "empty"),
        ({"source": "slack", "sweep": 1}, 422, "sweep must be true or false"),
    ):
        problem(await bare.send("POST", f"{V1}/sync", body), status, words)
