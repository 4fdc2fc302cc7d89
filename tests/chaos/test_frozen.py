"""SIGSTOP for longer than the lease, while another process takes over; then SIGCONT."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.chaos.forks import Forks
from tests.chaos.place import is_well, place, tiny, until
from tests.chaos.seeds import LENGTH, REPLAY, dice

LEASE_S = 1.0  # the shortest that may be set
PAST_IT = timedelta(seconds=3 * LEASE_S)  # renewals among it


ABOUT_TO_ASK = {"kind": "503", "vendor": "gmail", "method": "threads.list"}  # again: only its own clock can tell it
ABOUT_TO_WRITE = {"kind": "slow", "vendor": "slack", "method": "conversations.history", "seconds": 0.2}


@pytest.mark.parametrize("about_to", [ABOUT_TO_ASK, ABOUT_TO_WRITE], ids=["ask", "write"])
async def test_a_process_that_was_frozen_past_its_lease_asks_and_writes_nothing_when_it_wakes(
    database_url: str, forks: Forks, about_to: dict[str, Any]
) -> None:
    async with place(database_url, tiny(1, workspaces=1), lease=f"{LEASE_S:g}s") as spot:
        fault = spot.box.world.faults.add({"times": 1, **about_to})
        frozen = await forks.cycle(spot.settings, at=spot.clock.now(), sources=(about_to["vendor"],))
        await until(lambda: fault.hits > 0)
        frozen.kill(signal.SIGSTOP)
        stopped = time.monotonic()
        spot.pass_time(PAST_IT)
        other = await forks.cycle(spot.settings, at=spot.clock.now(), sources=(about_to["vendor"],))
        assert await other.wait() == 0, other.said()
        assert await spot.one("SELECT COUNT(*) FROM messages") > 0
        stored = await spot.snapshot()
        spot.pass_time(timedelta(seconds=1))
        woken = spot.clock.now()  # not the ledger's length: a slow call is in it when it ends
        await asyncio.sleep(stopped + LEASE_S * 1.2 - time.monotonic())  # that is what being frozen means
        frozen.kill(signal.SIGCONT)
        await frozen.wait()
        assert [call for call in spot.box.world.ledger if call.at >= woken] == []
        assert await spot.snapshot() == stored
        assert await spot.rows("SELECT status, error FROM runs ORDER BY id") == [
            ("interrupted", "the daemon died"),
            ("succeeded", None),
        ]


async def test_a_process_that_was_frozen_in_mid_transaction_holds_nobody_up(
    postgres_url: str, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL would keep its locks for as long as its socket is open."""
    monkeypatch.setattr("syncd.store.database._IDLE_S", 1)
    async with place(postgres_url, tiny(1, workspaces=1)) as spot:
        await spot.whole_turn(forks)
        spot.pass_time(timedelta(minutes=15))

        async def frozen() -> None:
            async with spot.database.write() as session:
                await session.execute(text("UPDATE runs SET status = 'running', finished_at = NULL"))
            async with spot.database.write() as session:
                await session.execute(text("UPDATE runs SET calls = calls + 1"))
                await spot.whole_turn(forks)  # it begins by telling them as interrupted

        with pytest.raises(DBAPIError):
            await frozen()


BOTH = [
    (database, woken) for woken in ("after the other", "while the other reads") for database in ("sqlite", "postgres")
]


@pytest.mark.parametrize(("database_url", "woken"), BOTH if LENGTH else BOTH[::3], indirect=["database_url"])
async def test_whenever_it_is_frozen_and_woken_nothing_is_lost_or_doubled(
    database_url: str, forks: Forks, woken: str
) -> None:
    throw = dice("frozen", woken)
    async with place(database_url, tiny(throw.randrange(1000)), lease=f"{LEASE_S:g}s") as spot:
        began = time.monotonic()
        await spot.whole_turn(forks)
        takes_s = time.monotonic() - began
        for _ in range(LENGTH or 1):
            spot.pass_time(timedelta(hours=7))  # with a sweep, which reads most
            frozen = await spot.turn(forks, idle_s=1)
            await asyncio.sleep(throw.uniform(0.02, takes_s / 2))
            frozen.kill(signal.SIGSTOP)
            spot.pass_time(PAST_IT)
            other = await spot.turn(forks, busy_ms=300)
            await asyncio.sleep(throw.uniform(0, takes_s / 2))
            if woken == "after the other":
                await other.wait()
            frozen.kill(signal.SIGCONT)
            for one in (frozen, other):
                # 1: it was frozen with tokens that it had not stored, for longer than its right to renew: until it wakes
                # and stores them the other is refused. 2: SQLite's lock was frozen with it.
                assert await one.wait() in {0, 1, 2}, f"{REPLAY}\n{one.said()}"
        await is_well(spot, forks)
        refused = "status = 'failed' AND error_kind = 'auth' AND error LIKE '%invalid_grant%'"
        others = f"SELECT COUNT(*) FROM runs WHERE status NOT IN ('succeeded', 'interrupted') AND NOT ({refused})"
        assert await spot.one(others) == 0, REPLAY
        twice = "SELECT cycle_id, connection_id FROM runs GROUP BY 1, 2 HAVING COUNT(*) > 1"
        assert await spot.rows(twice) == [], REPLAY
