"""kill -9 at any moment, again and again; then one whole cycle, and the database is the vendors' truth.

``SYNCD_CHAOS=100 pytest tests/chaos/test_kills.py`` makes a hundred kills in a row on each database. With
``SYNCD_KIND=pgqueuer`` a turn is a daemon and a worker: both are killed, or the daemon while the worker stops by itself.
"""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from tests.chaos.forks import Forks
from tests.chaos.place import caught_up, changes, place, tiny
from tests.chaos.seeds import LENGTH, REPLAY, dice
from tests.queueing import DATABASES, QUEUED

KILLS = LENGTH or 4
CHANGES = min(3 * KILLS, 60)  # for each source: more would wait for limits, not for us
LEASE = timedelta(minutes=5)  # the one we ship: clocks go past it between one process and the next


@pytest.mark.parametrize("database_url", DATABASES, indirect=True)
async def test_after_kills_at_random_moments_one_cycle_makes_the_database_the_truth(
    database_url: str, forks: Forks
) -> None:
    throw = dice("kills")
    async with place(database_url, tiny(throw.randrange(1000)), queued=QUEUED) as spot:
        began = time.monotonic()
        await spot.whole_turn(forks)
        takes_s = time.monotonic() - began
        for workspace in spot.box.world.companies:
            for made in changes(throw, CHANGES):
                spot.events(workspace, made)
        for kill in range(KILLS):
            alive = False
            while not alive:
                spot.pass_time(LEASE + timedelta(minutes=throw.uniform(1, 40)))
                turn, began = await spot.begin(forks), time.monotonic()
                alive = await turn.killed_after(throw.uniform(0, takes_s), drains=kill % 2 == 1)
                takes_s = takes_s if alive else time.monotonic() - began
                assert turn.daemon.code in {-9, 0, 1}, f"{REPLAY}\n{turn.said()}"  # 1: a lost refresh token
                await spot.reconnect()
        await caught_up(spot, forks)
        assert (found := await spot.differences()) == [], "\n".join([REPLAY, *found])
        assert (
            await spot.one(
                "SELECT COUNT(*) FROM runs WHERE status NOT IN ('succeeded', 'interrupted', 'deferred') AND error_kind <> 'auth'"
            )
            == 0
        ), REPLAY
        assert await spot.one("SELECT COUNT(*) FROM runs WHERE error = 'the daemon died'") > 0, REPLAY
        assert await spot.one("SELECT COUNT(*) FROM connections WHERE lease IS NOT NULL") == 0, REPLAY
        assert (found := spot.breaches()) == [], "\n".join([REPLAY, *found])
