"""The machine's own faults: the database away, locked or full, no name service, a clock that jumps.

Whatever happens in a turn, the turns after it make the database the vendors' truth, and nobody has to do anything.
"""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from syncd.daemon import open_parts
from syncd.settings import Settings
from syncd.sources import SOURCES
from syncd.store import Database
from tests.chaos.forks import Forks
from tests.chaos.place import Place, is_well, place, tiny, until
from tests.chaos.seeds import LENGTH, REPLAY, databases, dice
from tests.postgres import Postgres

WAIT_S = 30
TIMES = min(LENGTH, 20) or 2
A_QUARTER = timedelta(minutes=15)


def file_of(spot: Place) -> Path:
    return Path(str(spot.database.url.database))


async def test_postgresql_restarted_in_mid_cycle_costs_no_connection_a_failure(forks: Forks) -> None:
    """One process lives through it; its runs were not the vendors' fault, so the next turn takes them all."""
    throw = dice("postgres")
    with Postgres() as server:
        url = server.url("postgres")
        database = Database(url)
        await database.migrate()
        await database.close()
        async with place(url, tiny(1, 1)) as spot:
            spot.box.world.faults.add({"kind": "slow", "seconds": 0.03})
            async with open_parts(Settings(**spot.settings), now=spot.clock.now) as parts:
                for _ in range(TIMES):
                    asked = len(spot.box.world.ledger)
                    for name in SOURCES:
                        parts.engine.start_cycle(name, spot.clock.now())
                    tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("cycle ")]
                    wanted = asked + throw.randrange(1, 10)
                    await until(lambda wanted=wanted: len(spot.box.world.ledger) >= wanted)
                    await asyncio.to_thread(server.stop)
                    await asyncio.sleep(throw.uniform(0, 60 if LENGTH > 20 else 0.3))
                    await asyncio.to_thread(server.start)
                    await asyncio.wait(tasks)
                    spot.pass_time(timedelta(minutes=30))
            told = "SELECT COUNT(*) FROM runs WHERE status NOT IN ('succeeded', 'interrupted', 'running')"
            assert await spot.one(told) == 0, REPLAY
            assert await spot.one("SELECT MAX(failures) FROM connections") == 0, REPLAY
            spot.box.world.faults.rules.clear()
            await is_well(spot, forks)


async def test_a_lock_that_is_held_for_a_while_only_delays(sqlite_url: str, forks: Forks) -> None:
    async with place(sqlite_url, tiny(1, 1)) as spot:
        fork = await spot.turn(forks)
        await until(lambda: len(spot.box.world.ledger) > 5)
        with sqlite3.connect(file_of(spot), isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(0.3)
            other.execute("ROLLBACK")
        assert await fork.wait() == 0, fork.said()
        assert await spot.one("SELECT COUNT(*) FROM runs WHERE status <> 'succeeded'") == 0
        await is_well(spot, forks)


async def test_a_lock_that_is_held_for_longer_than_we_wait_costs_a_turn(sqlite_url: str, forks: Forks) -> None:
    throw = dice("locked")
    async with place(sqlite_url, tiny(1, 1)) as spot:
        for _ in range(TIMES):
            asked = len(spot.box.world.ledger)
            fork = await spot.turn(forks, busy_ms=50)
            wanted = asked + throw.randrange(1, 8)
            await until(lambda wanted=wanted: len(spot.box.world.ledger) >= wanted)
            with sqlite3.connect(file_of(spot), isolation_level=None, timeout=WAIT_S) as other:
                other.execute("BEGIN IMMEDIATE")
                code = await fork.wait()
                other.execute("ROLLBACK")
            assert code in {0, 1, 2}, f"{REPLAY}\n{fork.said()}"
            assert "Traceback" not in fork.said(), fork.said()
            spot.pass_time(A_QUARTER)
        assert await spot.one("SELECT COUNT(*) FROM runs WHERE status = 'failed'") == 0, REPLAY
        await is_well(spot, forks)


async def test_a_disk_that_fills_up_costs_a_turn_and_no_record(sqlite_url: str, forks: Forks) -> None:
    throw = dice("disk")
    async with place(sqlite_url, tiny(1, 1)) as spot:
        for _ in range(TIMES):
            size = max(path.stat().st_size for path in file_of(spot).parent.glob("syncd.db*"))
            fork = await spot.turn(forks, largest_file=size + throw.randrange(100_000))
            assert await fork.wait() in {0, 1, 2}, f"{REPLAY}\n{fork.said()}"
            assert "Traceback" not in fork.said(), fork.said()
            spot.pass_time(A_QUARTER)
        with sqlite3.connect(file_of(spot)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert await spot.one("SELECT COUNT(*) FROM runs WHERE status = 'failed'") == 0, REPLAY
        await is_well(spot, forks)


async def test_without_names_for_addresses_runs_fail_as_passing_and_the_next_turns_catch_up(
    sqlite_url: str, forks: Forks
) -> None:
    async with place(sqlite_url, tiny(1, 1), sources={"patience": "0s"}) as spot:
        await spot.whole_turn(forks)
        right = spot.settings
        nowhere = {
            name: {key: str(value).replace("127.0.0.1", "nowhere.invalid") if "url" in key else value for key, value in mine.items()}
            for name, mine in right["sources"].items()
        }  # fmt: skip
        spot.settings = right | {"sources": nowhere}
        spot.pass_time(A_QUARTER)
        fork = await spot.turn(forks)
        assert await fork.wait() == 1, fork.said()
        assert await spot.rows("SELECT DISTINCT status, error_kind FROM runs WHERE error_kind IS NOT NULL") == [
            ("failed", "transient")
        ]
        spot.settings = right
        await is_well(spot, forks)


@pytest.mark.parametrize("database_url", databases("sqlite"), indirect=True)
async def test_a_clock_that_jumps_back_and_forth_loses_nothing(database_url: str, forks: Forks) -> None:
    """Ours jumps, the vendors' does not. Each jump is as when a machine wakes up, or its time server errs."""
    throw = dice("clock")
    async with place(database_url, tiny(throw.randrange(1000), 1)) as spot:
        await spot.whole_turn(forks)
        for _ in range(LENGTH or 2):
            spot.pass_time(A_QUARTER)
            wrong = spot.clock.now() + timedelta(minutes=throw.choice((-90, -20, 20, 90)))
            fork = await forks.cycle(spot.settings, at=wrong, turn=wrong)
            await fork.killed_after(throw.choice((0.3, 60)))
        spot.pass_time(A_QUARTER)
        fork = await spot.turn(forks)
        assert await fork.wait() == 0, f"{REPLAY}\n{fork.said()}"
        ran = "SELECT COUNT(DISTINCT connection_id) FROM runs WHERE status = 'succeeded' AND cycle_id > (SELECT MAX(id) FROM cycles) - 4"
        everyone = await spot.one("SELECT COUNT(*) FROM connections")
        assert await spot.one(ran) == everyone, f"{REPLAY}: whatever the clock said before, the next turn takes all"
        await is_well(spot, forks)
