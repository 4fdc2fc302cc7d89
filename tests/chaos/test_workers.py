"""Daemons that schedule and workers that run what they put into the queue, as processes on one PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from syncd.sandbox.world import Clock
from syncd.sources import SOURCES
from syncd.store import Database
from syncd.store.due import MOST_TRIES
from syncd.store.jobs import Jobs
from tests.chaos.forks import Fork, Forks
from tests.chaos.place import Place, is_well, place, tiny, until
from tests.chaos.seeds import LENGTH, REPLAY, dice
from tests.chaos.test_daemons import AT_ONCE, QUICK_S, SLOW
from tests.postgres import Postgres
from tests.queueing import SCHEMA, forget

WORKSPACES = 4
ALL = WORKSPACES * len(SOURCES)
LEASE_S, HEARTBEAT_S = 2.0, 2.0
SPEED = 30  # the vendors' seconds in a real one
SETTINGS: dict[str, Any] = {
    "lease": f"{LEASE_S:g}s",
    "log": {"level": "debug"},
    "sources": {"concurrency": 1},
    "engine": {"kind": "pgqueuer", "heartbeat": f"{HEARTBEAT_S:g}s"},
}
DONE = "SELECT COUNT(*) FROM runs WHERE status = 'succeeded'"
ENDED = "SELECT status, error_kind, error, COUNT(*) FROM runs GROUP BY 1, 2, 3"
READERS = "SELECT COUNT(DISTINCT split_part(lease, '/', 1)) FROM connections WHERE lease IS NOT NULL"
LONG = pytest.mark.skipif(not LENGTH, reason="the suite has to be short: with SYNCD_CHAOS")
TWICE = """SELECT cycle_id, connection_id FROM runs WHERE status = 'succeeded' GROUP BY 1, 2 HAVING COUNT(*) > 1"""


@asynccontextmanager
async def shop(url: str, **settings: Any) -> AsyncIterator[Place]:
    """A sandbox, its connections, and a queue; by the machine's clock, for workers go by it."""
    async with place(url, tiny(1, WORKSPACES), born=None, **SETTINGS | settings) as spot:
        await Jobs(spot.database, SCHEMA, timedelta(seconds=HEARTBEAT_S)).install()
        try:
            yield spot
        finally:
            await forget(spot.database)


async def ended(spot: Place, forks: Forks, *workers: Any, turns: int = 1) -> None:
    """Each turn read all once, nobody the same at once; the workers stop well, and nothing is lost or doubled."""
    assert await spot.one(DONE) == ALL * turns, f"{REPLAY}: {await spot.rows(ENDED)}"
    assert await spot.rows(TWICE) == [], REPLAY
    assert await spot.rows(AT_ONCE) == [], REPLAY
    assert await spot.rows("SELECT source FROM cycles WHERE status <> 'success'") == [], REPLAY
    for worker in workers:
        worker.kill(signal.SIGTERM)
    assert [await worker.wait() for worker in workers] == [0] * len(workers), workers[0].said()[-2000:]
    spot.settings["engine"] = {"kind": "local"}
    spot.box.world.faults.rules.clear()
    await is_well(spot, forks)


async def turn(spot: Place, forks: Forks) -> Any:
    """A daemon's turn, which ends when workers have run it."""
    now = datetime.now(UTC)
    return await forks.cycle(spot.settings, at=now, turn=now)


async def serving(worker: Fork) -> Fork:
    """From when it hears signals."""
    await until(lambda: "http://" in worker.said())
    return worker


async def all_due(spot: Place) -> None:
    async with spot.database.write() as session:
        await session.execute(text("UPDATE connections SET next_sync_at = now()"))


async def all_read(spot: Place, many: int) -> None:
    """Until so many workers hold a lease at once."""

    async def reading() -> bool:
        return bool(await spot.one(READERS) == many)

    await until(reading)


async def test_what_a_killed_worker_had_is_read_by_others_in_the_same_cycle(postgres_url: str, forks: Forks) -> None:
    """Within the lease and the heartbeat: the lease keeps its connections from others, then their jobs are given anew."""
    throw = dice("workers")
    async with shop(postgres_url) as spot:
        slow = spot.box.world.faults.add(SLOW)
        victim, survivor = await forks.worker(spot.settings), await forks.worker(spot.settings)
        daemon = await turn(spot, forks)
        await all_read(spot, 2)
        assert await victim.killed_after(throw.uniform(0, 0.1))
        killed = time.monotonic()
        slow.seconds = QUICK_S
        assert await daemon.wait() == 0, f"{REPLAY}\n{daemon.said()}"
        took_s = time.monotonic() - killed
        assert await spot.one("SELECT COUNT(*) FROM runs WHERE status = 'interrupted'") > 0
        await ended(spot, forks, survivor)
        assert took_s < LEASE_S + HEARTBEAT_S + 50, "and the time to read, on a machine that is busy"


@LONG
async def test_workers_that_are_killed_at_random_lose_and_double_nothing(postgres_url: str, forks: Forks) -> None:
    """A kill in each of as many turns as SYNCD_CHAOS says.

    They follow each other as fast as they can, and a lease ends in seconds instead of minutes. What a dead worker drew of
    a limit nobody knows; by the time its lease is over the vendor's minute has to be over as well, as it is in real life.
    """
    throw = dice("kills of workers")
    async with shop(postgres_url, clock=Clock(speed=SPEED)) as spot:
        spot.settings["sources"]["slack"]["limits"] = {"conversations.history": f"{50 * SPEED}/1m"}
        spot.box.world.faults.add(SLOW).seconds = 0.1
        workers = [await serving(await forks.worker(spot.settings)) for _ in range(3)]
        for _ in range(LENGTH):
            await all_due(spot)
            daemon = await turn(spot, forks)
            await asyncio.sleep(throw.uniform(0, 3))
            victim = workers.pop(throw.randrange(len(workers)))
            victim.kill()
            await victim.wait()
            workers.append(await serving(await forks.worker(spot.settings)))
            assert await daemon.wait() == 0, f"{REPLAY}\n{daemon.said()}"
        await ended(spot, forks, *workers, turns=LENGTH)


@LONG
async def test_a_worker_that_was_frozen_past_lease_and_heartbeat_writes_nothing_when_it_wakes(
    postgres_url: str, forks: Forks
) -> None:
    async with shop(postgres_url) as spot:
        slow = spot.box.world.faults.add(SLOW)
        frozen, other = await forks.worker(spot.settings, idle_s=1), await forks.worker(spot.settings)
        daemon = await turn(spot, forks)
        await all_read(spot, 2)
        frozen.kill(signal.SIGSTOP)
        stopped = time.monotonic()
        slow.seconds = QUICK_S
        assert await daemon.wait() == 0, daemon.said()
        await asyncio.sleep(max(0.0, stopped + LEASE_S * 1.2 - time.monotonic()))  # that is what being frozen means
        stored = await spot.snapshot()
        spot.pass_time(timedelta(seconds=1))
        woken = spot.clock.now()  # not the ledger's length: a slow call is in it when it ends
        frozen.kill(signal.SIGCONT)
        frozen.kill(signal.SIGTERM)
        await frozen.wait()
        assert [call for call in spot.box.world.ledger if call.at >= woken] == []
        assert await spot.snapshot() == stored
        await ended(spot, forks, other)


@LONG
async def test_workers_join_and_leave_in_mid_cycle_and_no_connection_has_to_wait_for_the_next(
    postgres_url: str, forks: Forks
) -> None:
    throw = dice("joining")
    async with shop(postgres_url) as spot:
        spot.box.world.faults.add(SLOW).seconds = 0.1
        workers = [await serving(await forks.worker(spot.settings))]
        daemons = [await turn(spot, forks)]
        await all_read(spot, 1)
        for _ in range(MOST_TRIES - 1):  # what is broken off more often is left to the next cycle
            workers.append(await serving(await forks.worker(spot.settings)))
            await asyncio.sleep(throw.uniform(0, 0.5))
            leaver = workers.pop(0)
            leaver.kill(signal.SIGTERM)
            assert await leaver.wait() == 0, f"{REPLAY}\n{leaver.said()[-2000:]}"
        assert [await daemon.wait() for daemon in daemons] == [0], REPLAY
        await ended(spot, forks, *workers)


@LONG
async def test_three_daemons_fire_at_each_turn_and_each_turn_is_one_cycle(postgres_url: str, forks: Forks) -> None:
    async with shop(postgres_url) as spot:
        workers = [await forks.worker(spot.settings) for _ in range(2)]
        for _ in range(LENGTH or 2):
            await all_due(spot)
            now = datetime.now(UTC)
            daemons = [await forks.cycle(spot.settings, at=now, turn=now) for _ in range(3)]
            assert [await daemon.wait() for daemon in daemons] == [0] * 3, daemons[0].said()[-2000:]
        turns = LENGTH or 2
        assert await spot.one("SELECT COUNT(*) FROM cycles") == turns * len(SOURCES)
        await ended(spot, forks, *workers, turns=turns)


async def test_postgresql_restarted_under_all_of_them_costs_no_connection_its_turn(forks: Forks) -> None:
    with Postgres() as server:
        url = server.url("postgres")
        database = Database(url)
        await database.migrate()
        await database.close()
        async with shop(url) as spot:
            spot.box.world.faults.add(SLOW).seconds = 0.1
            workers = [await forks.worker(spot.settings) for _ in range(2)]
            daemon = await turn(spot, forks)
            await all_read(spot, 2)
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)
            assert await daemon.wait() in {0, 1}, daemon.said()[-3000:]
            for worker in workers:
                worker.kill(signal.SIGTERM)
            assert [await worker.wait() for worker in workers] == [0, 0], workers[0].said()[-3000:]
            assert await spot.one("SELECT MAX(failures) FROM connections") == 0
            spot.settings["engine"] = {"kind": "local"}
            spot.box.world.faults.rules.clear()
            await is_well(spot, forks)
