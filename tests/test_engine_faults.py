"""The engine when things break around it: vendors away or hanging, the database, a frozen process, other daemons."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, func, insert, select, update
from sqlalchemy.engine import make_url

from syncd.errors import LeaseLost, Transient
from syncd.http import Link
from syncd.source import Page, Since
from syncd.store import Store
from syncd.store.database import Database, is_outage
from syncd.tables import connections, cursors, runs
from tests.conftest import Clock
from tests.scripted import Bench, message, pages, source

MakeStore = Callable[..., Store]


@pytest.fixture
async def stores(database_url: str, clock: Clock) -> AsyncIterator[MakeStore]:
    """``stores(lease=…)``: stores on one database, closed at the end."""
    opened: list[Database] = []

    def make(**more: Any) -> Store:
        opened.append(Database(database_url))
        return Store(opened[-1], clock, **more)

    yield make
    for one in opened:
        await one.close()


async def count(store: Store, status: str) -> int:
    async with store.database.read() as session:
        query = select(func.count()).select_from(runs).where(runs.c.status == status)
        return int((await session.execute(query)).scalar_one())


# ── vendors that hang, and vendors that are away ────────────────────────────────────────────────────────────────────


async def test_runs_that_hang_lend_their_slots_and_the_others_all_end_in_their_order(
    store: Store, clock: Clock
) -> None:
    hang, read_in_order = asyncio.Event(), list[str]()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        assert link.slot is not None
        if link.credentials["token"].startswith("t-hangs"):
            link.slot.lend()  # what a call does that waits long for its answer
            await hang.wait()
            await link.slot.regain()
        yield Page()
        read_in_order.append(link.credentials["token"])

    bench = Bench(store, source(read), clock, slots=2)
    names = [f"hangs{number}" if number % 4 == 0 else f"{number:02}" for number in range(24)]
    await bench.connect(*names)
    bench.engine.start_cycle("slack", clock())
    async with asyncio.timeout(30):
        while len(read_in_order) < 18:
            await asyncio.sleep(0.005)
    others = [f"t-{name}" for name in names if "hangs" not in name]
    assert max(abs(at - others.index(name)) for at, name in enumerate(read_in_order)) <= 1
    hang.set()
    await asyncio.gather(*bench.engine._tasks)
    assert await count(store, "succeeded") == 24


async def test_a_run_past_its_time_limit_that_lent_its_slot_is_deferred_and_no_failure(store: Store) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        assert link.slot is not None
        link.slot.lend()
        await link.slot.regain()
        yield Page(records=[message("1")])
        raise AssertionError("it ends at the page")

    bench = Bench(store, source(read), run_timeout=timedelta(0))
    await bench.connect("acme")
    assert (await bench.cycle())["deferred_workspaces"] == 1
    (connection,) = await bench.rows("connections")
    assert (connection.failures, bench.engine.slots["slack"].held, bench.engine.slots["slack"].lent) == (0, 0, 0)


class Vendor:
    """One that is away, or back."""

    def __init__(self) -> None:
        self.away, self.asked = True, 0

    async def read(self, link: Link, since: Since) -> AsyncIterator[Page]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Transient("cannot connect")
        yield Page()


async def test_while_a_vendor_is_away_a_cycle_ends_after_few_runs_and_the_rest_stays_due(
    store: Store, clock: Clock
) -> None:
    vendor = Vendor()
    bench = Bench(store, source(vendor.read), clock, slots=2)
    await bench.connect(*(f"{number:02}" for number in range(20)))
    await bench.cycle(turn=clock())
    assert vendor.asked <= 5 + 2 + 1  # those that found it out, what ran beside them, and a probe
    untouched = [one for one in await bench.rows("connections") if one.failures == 0]
    assert len(untouched) == 20 - vendor.asked
    assert all(one.next_sync_at <= clock() for one in untouched)


async def test_the_next_cycle_of_a_vendor_that_is_away_only_probes(store: Store, clock: Clock) -> None:
    vendor = Vendor()
    bench = Bench(store, source(vendor.read), clock, slots=2)
    await bench.connect(*(f"{number:02}" for number in range(20)))
    await bench.cycle(turn=clock())
    before = vendor.asked
    clock.advance(minutes=15)
    await bench.cycle(turn=clock())
    assert vendor.asked == before + 1


async def test_after_an_outage_the_load_comes_back_in_steps_and_everything_is_read(store: Store, clock: Clock) -> None:
    vendor, open_then = Vendor(), list[int]()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        open_then.append(bench.engine.slots["slack"].open)
        async for page in vendor.read(link, since):
            yield page

    bench = Bench(store, source(read), clock, slots=8)
    await bench.connect(*(f"{number:02}" for number in range(30)))
    await bench.cycle(turn=clock())
    vendor.away = False
    clock.advance(minutes=15)
    open_then.clear()
    status = await bench.cycle(turn=clock())
    assert status["successful_workspaces"] == 30
    assert open_then[:2] == [1, 2]
    assert open_then == sorted(open_then)
    assert open_then[-1] == 8


async def test_one_connection_that_cannot_reach_its_vendor_keeps_nobody_waiting(store: Store, clock: Clock) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        if link.credentials["token"] < "t-06":
            raise Transient("its own host is away")
        yield Page()

    bench = Bench(store, source(read), clock, slots=8)
    await bench.connect(*(f"{number:02}" for number in range(20)))
    assert (await bench.cycle(turn=clock()))["successful_workspaces"] == 14


# ── the database ────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def locked(store: Store) -> AsyncIterator[None]:
    """Somebody else holds what a page is stored into."""
    if store.database.is_sqlite:
        other = sqlite3.connect(str(store.database.url.database), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.close()
        return
    url = make_url(store.database.url)
    db = await asyncpg.connect(
        host=url.host, port=url.port, user=url.username, password=url.password, database=url.database
    )
    await db.execute("BEGIN; LOCK TABLE messages IN EXCLUSIVE MODE")
    try:
        yield
    finally:
        await db.close()


def impatient(store: Store) -> None:
    """Make its database give up on a lock after a moment."""

    def connected(db: Any, _: object) -> None:
        cursor = db.cursor()
        cursor.execute("PRAGMA busy_timeout=50" if store.database.is_sqlite else "SET lock_timeout = 50")
        cursor.close()
        db.commit()

    event.listen(store.database.engine.sync_engine, "connect", connected)


async def test_a_database_that_fails_in_mid_run_is_not_the_connections_failure(store: Store, clock: Clock) -> None:
    impatient(store)

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=[message("1")], cursor="1", notes=["stored at once"])
        async with locked(store):
            yield Page(records=[message("2")], cursor="2", notes=["stored at once"])

    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    async with store.database.write() as session:
        await session.execute(update(connections).values(failures=2))
    status = await bench.cycle(turn=clock())
    (connection,), (run,) = await bench.rows("connections"), await bench.rows("runs")
    assert (run.status, run.error_kind, run.added) == ("interrupted", "database", 1)
    assert "lock" in run.error
    assert (connection.failures, connection.last_error, connection.lease) == (2, None, None)
    assert connection.next_sync_at == clock() + timedelta(minutes=15)
    assert (status["status"], status["failed_workspaces"]) == ("interrupted", 0)
    clock.advance(minutes=15)
    assert await store.looks.cursors(1, "messages") == {"": "1"}


async def test_what_the_database_refuses_is_our_defect_and_no_outage(store: Store) -> None:
    row = {"connection_id": 1, "stream": "s", "partition": "", "cursor": "c", "updated_at": store.connections._now()}
    with pytest.raises(Exception, match=r"\w") as twice:
        async with store.database.write() as session:
            await session.execute(insert(cursors).values([row, row]))
    with pytest.raises(Exception, match=r"\w") as senseless:
        async with store.database.write() as session:
            await session.execute(insert(cursors).values(row | {"connection_id": 2**70}))
    assert not is_outage(twice.value)
    assert not is_outage(senseless.value)


async def test_a_database_that_is_away_is_an_outage(tmp_path: Any) -> None:
    for url in (f"sqlite+aiosqlite:///{tmp_path}/no/such/folder.db", "postgresql+asyncpg://u:secret@127.0.0.1:9/db"):
        database = Database(url)
        with pytest.raises(Exception, match=r"\w") as away:
            await database.ping()
        await database.close()
        assert is_outage(away.value)


# ── a frozen process, and leases that others took ───────────────────────────────────────────────────────────────────


@pytest.fixture
def freeze(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """``freeze(seconds)``: as if the process had stood still for so long, its monotonic clock had not."""
    stood_s = [0.0]
    real = time.monotonic
    monkeypatch.setattr("syncd.live.time", SimpleNamespace(monotonic=lambda: real() + stood_s[0]))

    def stand(seconds: float) -> None:
        stood_s[0] += seconds

    return stand


async def test_a_process_that_was_frozen_for_longer_than_its_lease_asks_no_vendor_first(
    store: Store, freeze: Callable[[float], None]
) -> None:
    asked: list[str] = []

    async def attempt() -> None:
        asked.append("")

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        await link.call("before", attempt)
        freeze(301)
        await link.call("after", attempt)
        yield Page()

    bench = Bench(store, source(read))
    await bench.connect("acme")
    await bench.cycle()
    (run,), (connection,) = await bench.rows("runs"), await bench.rows("connections")
    assert (len(asked), run.status, run.error_kind) == (1, "interrupted", "lease_lost")
    assert connection.failures == 0


async def test_where_the_lease_is_old_a_page_renews_it_at_once(store: Store, freeze: Callable[[float], None]) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        for _ in range(3):
            freeze(200)
            link.owned()
            yield Page(records=[message("1")])

    bench = Bench(store, source(read))
    await bench.connect("acme")
    assert (await bench.cycle())["successful_workspaces"] == 1


async def test_a_run_whose_lease_another_took_ends_at_once_and_not_at_its_next_page(stores: MakeStore) -> None:
    ours, theirs = stores(lease=timedelta(seconds=0.3)), stores()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=[message("1")])
        async with theirs.database.write() as session:
            await session.execute(update(connections).values(lease="theirs"))
        await asyncio.Event().wait()
        yield Page(records=[message("2")])

    bench = Bench(ours, source(read))
    await bench.connect("acme")
    async with asyncio.timeout(5):
        await bench.cycle()
    (run,), (connection,) = await bench.rows("runs"), await bench.rows("connections")
    assert (run.status, run.error_kind, connection.lease) == ("interrupted", "lease_lost", "theirs")


async def test_a_run_in_doubt_is_ours_again_once_the_lease_was_renewed(
    stores: MakeStore, freeze: Callable[[float], None]
) -> None:
    """Frozen, but nobody took the connection: the keeper finds that out."""
    kept: list[bool] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        freeze(1)
        with pytest.raises(LeaseLost):
            link.owned()
        async with asyncio.timeout(5):
            while not kept:
                await asyncio.sleep(0.01)
                try:
                    link.owned()
                    kept.append(True)
                except LeaseLost:
                    pass
        yield Page()

    bench = Bench(stores(lease=timedelta(seconds=0.3)), source(read))
    await bench.connect("acme")
    assert (await bench.cycle())["successful_workspaces"] == 1


# ── several daemons ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_two_daemons_on_one_database_each_turn_runs_each_connection_once(
    postgres_url: str, clock: Clock
) -> None:
    databases = [Database(postgres_url) for _ in range(2)]
    one, two = (Bench(Store(database, clock), source(pages(Page())), clock, slots=2) for database in databases)
    two.vault = two.engine.runs._vault = one.vault
    await one.connect("a", "b")
    for _ in range(12):
        await asyncio.gather(one.cycle(turn=clock()), two.cycle(turn=clock()))
        clock.advance(minutes=15)
    ran = sorted((run.cycle_id, run.connection_id, run.status) for run in await one.rows("runs"))
    turns = [cycle.id for cycle in await one.rows("cycles")]
    assert len(turns) == 12
    assert ran == [(turn, connection, "succeeded") for turn in turns for connection in (1, 2)]
    for database in databases:
        await database.close()
