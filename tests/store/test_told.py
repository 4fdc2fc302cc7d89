"""What each connection is told as: state, freshness, trouble; and the sums and pages of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, update

from syncd import tables
from syncd.report import found, overview
from syncd.settings import Settings
from syncd.store import Store
from syncd.store.status import Missed, Wanted
from tests.conftest import Clock
from tests.scripted import Bench, pages, source

HOUR = timedelta(hours=1)


@pytest.fixture
def bench(store: Store, clock: Clock) -> Bench:
    return Bench(store, source(pages()), clock)


async def told(bench: Bench, clock: Clock, **wanted: Any) -> list[tuple[Any, ...]]:
    """(state, freshness, trouble) of each; late is what was last read an hour ago, overdue two."""
    missed = {"slack": Missed(clock() - HOUR, clock() - 2 * HOUR)}
    rows, _ = await bench.store.status.find(Wanted(**wanted), missed)
    return [(row["state"], row["freshness"], row["trouble"]) for row in rows]


async def have(bench: Bench, **values: Any) -> None:
    async with bench.store.database.write() as session:
        await session.execute(update(tables.connections).values(**values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("new", "on_time", None)),
        ({"last_success_at": -1}, ("ok", "on_time", None)),
        ({"last_success_at": -90}, ("ok", "late", "late")),
        ({"last_success_at": -150}, ("ok", "overdue", "overdue")),
        ({"last_success_at": -150, "status_since": -30}, ("ok", "on_time", None)),
        ({"last_success_at": -150, "progress": {"parts": 40}, "updated_at": -30}, ("ok", "on_time", None)),
        ({"last_success_at": -150, "leased_until": 5}, ("running", "overdue", "overdue")),
        ({"last_success_at": -1, "limited_until": 5}, ("limited", "on_time", None)),
        ({"last_success_at": -1, "limited_until": -5}, ("ok", "on_time", None)),
        ({"last_success_at": -1, "failures": 2}, ("failing", "on_time", "failing")),
        ({"last_success_at": -1, "failures": 2, "leased_until": 5}, ("running", "on_time", "failing")),
        ({"last_success_at": -150, "status": "needs_reauth"}, ("needs_reauth", "overdue", "needs_reauth")),
        ({"last_success_at": -150, "is_active": False}, ("paused", None, None)),
        ({"is_active": False, "credentials": None}, ("removed", None, None)),
        ({"workspace_id": None}, ("unassigned", None, None)),
    ],
)
async def test_a_connection_is_told_as(
    bench: Bench, clock: Clock, values: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    clock.advance(hours=-3)
    await bench.connect("acme")
    clock.advance(hours=3)
    values = {"status_since": -170, "created_at": -1} | values
    at = {
        key: clock() + timedelta(minutes=part)
        for key, part in values.items()
        if key.endswith(("_at", "_until", "_since"))
    }
    await have(bench, **values | at)
    assert await told(bench, clock) == [expected]


async def test_a_source_that_is_off_is_not_late(bench: Bench, clock: Clock) -> None:
    await bench.connect("acme")
    clock.advance(days=3)
    rows, _ = await bench.store.status.find(Wanted(), {})
    assert [(row["freshness"], row["trouble"]) for row in rows] == [(None, None)]


async def test_a_pause_that_ends_begins_a_time_of_grace(bench: Bench, clock: Clock) -> None:
    await bench.connect("acme")
    (one,) = await bench.store.connections.all()
    clock.advance(hours=5)
    await bench.store.connections.set_active(one.id, active=False)
    clock.advance(hours=5)
    await bench.store.connections.set_active(one.id, active=True)
    assert await told(bench, clock) == [("new", "on_time", None)]


async def test_resuming_what_is_not_paused_begins_none(bench: Bench, clock: Clock) -> None:
    await bench.connect("acme")
    (one,) = await bench.store.connections.all()
    clock.advance(hours=5)
    await bench.store.connections.set_active(one.id, active=True)
    assert await told(bench, clock) == [("new", "overdue", "overdue")]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({"source": "slack"}, ["acme", "globex", "initech"]),
        ({"source": "gong"}, []),
        ({"workspace": "acme"}, ["acme"]),
        ({"workspace": "acm"}, []),
        ({"search": "ME"}, ["acme"]),
        ({"search": "%"}, []),
        ({"search": "2"}, ["globex"]),
        ({"trouble": "failing"}, ["globex"]),
        ({"state": "new"}, ["acme", "initech"]),
        ({"freshness": "late"}, []),
    ],
)
async def test_only_what_is_wanted_is_found(
    bench: Bench, clock: Clock, wanted: dict[str, Any], names: list[str]
) -> None:
    await bench.connect("acme", "globex", "initech")
    async with bench.store.database.write() as session:
        failing = update(tables.connections).where(tables.connections.c.workspace_id == "globex")
        await session.execute(failing.values(failures=1))
    rows, total = await found(bench.store, bench.engine.plans, Settings(), Wanted(**wanted))
    assert ([row["workspace_id"] for row in rows], total) == (names, len(names))


async def test_the_worst_come_first_page_by_page(bench: Bench, clock: Clock) -> None:
    await bench.connect("acme", "globex", "initech")
    async with bench.store.database.write() as session:
        failing = update(tables.connections).where(tables.connections.c.workspace_id == "globex")
        await session.execute(failing.values(failures=1))
    given = (bench.store, bench.engine.plans, Settings(), Wanted())
    seen = [await found(*given, limit=2, offset=offset, worst_first=True) for offset in (0, 2)]
    assert [row["workspace_id"] for rows, _ in seen for row in rows] == ["globex", "acme", "initech"]


async def test_the_overview_sums_what_there_is(bench: Bench, clock: Clock) -> None:
    await bench.connect("acme", "globex", "initech")
    of = tables.connections
    async with bench.store.database.write() as session:
        await session.execute(update(of).where(of.c.workspace_id == "globex").values(failures=1))
        later = {"limited_until": clock() + HOUR, "limited_by": "users.list", "last_success_at": clock()}
        await session.execute(update(of).where(of.c.workspace_id == "acme").values(**later))
        waiting = {"connection_id": 1, "stream": "s", "reason": "r", "attempts": 1}
        times = {"next_try_at": clock(), "created_at": clock()}
        await session.execute(insert(tables.backlog), [{"external_id": one, **waiting, **times} for one in "ab"])
    slack = (await overview(bench.store, bench.engine.plans, Settings()))["sources"]["slack"]
    assert {key: slack[key] for key in ("connections", "states", "troubles", "freshness", "waiting", "backlog")} == {
        "connections": 3,
        "states": {"failing": 1, "limited": 1, "new": 1},
        "troubles": {"failing": 1},
        "freshness": {"on_time": 3},
        "waiting": {"users.list": 1},
        "backlog": 2,
    }


async def test_the_last_runs_of_each_come_oldest_first(bench: Bench) -> None:
    await bench.connect("acme", "globex")
    for _ in range(3):
        await bench.cycle()
    runs = await bench.store.status.last_runs([1, 2, 99], 2)
    assert {one: [run["status"] for run in of_it] for one, of_it in runs.items()} == {
        1: ["succeeded"] * 2,
        2: ["succeeded"] * 2,
        99: [],
    }
    assert all(one["id"] < two["id"] for one, two in (runs[1], runs[2]))
