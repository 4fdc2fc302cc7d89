"""Daemons that share a PostgreSQL: they share the work, and survive each other's death."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace
from datetime import timedelta

import pytest

from syncd.sources import SOURCES
from tests.chaos.forks import Fork, Forks
from tests.chaos.place import Place, is_well, place, tiny, until
from tests.chaos.seeds import LENGTH, REPLAY, dice

WORKSPACES = 4
LEASE_S = 2
TWICE = "SELECT cycle_id, connection_id FROM runs GROUP BY 1, 2 HAVING COUNT(*) > 1"
AT_ONCE = """SELECT a.id, b.id FROM runs a JOIN runs b ON a.connection_id = b.connection_id AND a.id < b.id
    WHERE b.started_at < a.finished_at"""
SLOW = {"kind": "slow", "seconds": 0.4}  # until all take part in the turn
QUICK_S = 0.02
SHARED = {"lease": f"{LEASE_S}s", "log": {"level": "info"}, "sources": {"concurrency": 1}}


def finished(daemon: Fork) -> int:
    """How many runs it has ended."""
    told = [json.loads(line) for line in daemon.said().splitlines() if line.startswith("{")]
    return sum(line["event"] == "run.finished" for line in told)


async def all_read(spot: Place, many: int) -> None:
    """Until so many daemons hold a lease at once; from then on the vendors are quick."""
    readers = "SELECT COUNT(DISTINCT split_part(lease, '/', 1)) FROM connections WHERE lease IS NOT NULL"

    async def reading() -> bool:
        return bool(await spot.one(readers) == many)

    slow = spot.box.world.faults.add(SLOW)
    await until(reading)
    slow.seconds = QUICK_S


@pytest.mark.parametrize("many", [2, 3] if LENGTH else [3])
async def test_daemons_run_each_connection_once_in_a_turn(postgres_url: str, forks: Forks, many: int) -> None:
    """The cron of each fires: the first to come makes the turn's cycle, the others join it."""
    async with place(postgres_url, tiny(1, WORKSPACES), **SHARED) as spot:
        daemons = [await spot.turn(forks) for _ in range(many)]
        await all_read(spot, many)
        assert [await daemon.wait() for daemon in daemons] == [0] * many
        assert await spot.rows("SELECT source, COUNT(*) FROM cycles GROUP BY 1 HAVING COUNT(*) > 1") == []
        assert await spot.rows(TWICE) == []
        assert await spot.rows(AT_ONCE) == []
        assert await spot.one("SELECT COUNT(*) FROM runs WHERE status = 'succeeded'") == WORKSPACES * len(SOURCES)
        assert min(map(finished, daemons)) > 0, "each had its share"
        assert spot.breaches() == []


async def test_the_token_limit_of_an_app_holds_for_all_of_its_connections_in_all_daemons(
    postgres_url: str, forks: Forks
) -> None:
    """Fathom counts token requests by app (contract), and half of the connections sign in by the same one."""
    limit, many = "2/1s", 12
    options = tiny(1, many)
    async with place(postgres_url, replace(options, switches=options.switches | {"fathom.token": limit})) as spot:
        spot.settings["sources"]["fathom"] |= {"limits": {"token": limit}, "concurrency": 2}
        spot.pass_time(timedelta(hours=2))
        now = spot.clock.now()
        daemons = [await forks.cycle(spot.settings, at=now, turn=now, sources=("fathom",)) for _ in range(2)]
        assert [await daemon.wait() for daemon in daemons] == [0, 0], daemons[0].said()
        assert sum(one.granted for one in spot.box.world.renewals) == many // 2
        assert spot.breaches() == []


async def test_a_daemon_that_is_killed_in_mid_cycle_costs_the_others_nothing(postgres_url: str, forks: Forks) -> None:
    throw = dice("daemons")
    async with place(postgres_url, tiny(1, WORKSPACES), **SHARED) as spot:
        victim, survivor = await spot.turn(forks), await spot.turn(forks)
        await all_read(spot, 2)
        assert await victim.killed_after(throw.uniform(0, 0.1))
        assert await survivor.wait() == 0, f"{REPLAY}\n{survivor.said()}"
        orphans = await spot.one("SELECT COUNT(*) FROM runs WHERE status = 'running'")
        assert orphans > 0
        done = "SELECT COUNT(*) FROM runs WHERE status = 'succeeded'"
        assert await spot.one(done) == WORKSPACES * len(SOURCES) - orphans, f"{REPLAY}: all but what died is done"
        spot.box.world.faults.rules.clear()
        await is_well(spot, forks)
        assert await spot.rows(TWICE) == [], REPLAY
        told = "SELECT COUNT(*) FROM runs WHERE status = 'interrupted' AND error = 'the daemon died'"
        assert await spot.one(told) == orphans, REPLAY


@pytest.mark.skipif(not LENGTH, reason="takes minutes: with SYNCD_CHAOS")
async def test_daemons_that_die_and_come_back_keep_every_turn_of_a_minute(postgres_url: str, forks: Forks) -> None:
    """By the machine's clock: as many minutes as SYNCD_CHAOS says, at most ten."""
    throw, own = dice("minutes"), SHARED["sources"] | {"cron": "* * * * *"}
    shared = SHARED | {"sources": own}
    async with place(postgres_url, tiny(1, WORKSPACES), born=None, **shared) as spot:
        spot.box.world.faults.add(SLOW).seconds = QUICK_S
        daemons = [await forks.serve(spot.settings) for _ in range(3)]
        for _ in range(min(LENGTH, 10)):
            await asyncio.sleep(throw.uniform(45, 75))
            victim = daemons.pop(throw.randrange(len(daemons)))
            victim.kill()
            await victim.wait()
            daemons.append(await forks.serve(spot.settings))
        for daemon in daemons:
            daemon.kill(signal.SIGTERM)
        assert [await daemon.wait() for daemon in daemons] == [0] * 3, REPLAY
        assert await spot.rows(TWICE) == [], REPLAY
        assert await spot.rows(AT_ONCE) == [], REPLAY
        await is_well(spot, forks)
