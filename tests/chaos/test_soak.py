"""A long life in compressed time: one process, its clock moved from turn to turn, vendors that fail now and then.

``SYNCD_CHAOS=100 pytest tests/chaos/test_soak.py`` lives a week with 200 workspaces, which takes hours; less is less of both.
``SYNCD_SOAK_MINUTES=60`` puts an hour between two turns instead of a quarter, so that the same week has a fourth of the turns.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from tests.chaos.life import Holds, Life, life
from tests.chaos.place import Place, changes, place, tiny
from tests.chaos.seeds import LENGTH, REPLAY, databases, dice
from tests.chaos.test_random import fault

WORKSPACES = min(2 * LENGTH, 200) or 1
STEP = timedelta(minutes=int(os.environ.get("SYNCD_SOAK_MINUTES", "15"))) if LENGTH else timedelta(hours=4)
TURNS = min(max(7 * LENGTH, 24), timedelta(days=7) // STEP) if LENGTH else 9
HISTORY = timedelta(days=1)  # the shortest that may be set
FAULTY = 0.3  # this share of the turns
POOL = 10
TOKENS = "60/1s"  # instead of a minute: half of the workspaces sign in by one app, and anew each hour
MORE_MB = 12  # what a process may hold more in the last third of its life than in the second: the allocator's slack


def most(held: list[Holds], what: str) -> Any:
    return max(getattr(one, what) for one in held)


def least(held: list[Holds], what: str) -> Any:
    return min(getattr(one, what) for one in held)


async def lived(spot: Place, one: Life) -> list[Holds]:
    """Turn by turn; answers what was held after each."""
    throw, rules, found = dice("soak"), spot.box.world.faults, []
    workspaces = list(spot.box.world.companies)
    for turn in range(TURNS):
        spot.pass_time(STEP)
        rules.rules.clear()
        if throw.random() < FAULTY:
            rules.add(fault(throw, workspaces))
        found.append(await one.turn(spot.clock.now()))
        spot.box.world.ledger.clear()
        print(f"turn {turn + 1} of {TURNS}: {found[-1]}", flush=True)  # noqa: T201 - how far a long one is, with -s
    rules.rules.clear()
    return found


@pytest.mark.parametrize("database_url", databases("sqlite"), indirect=True)
async def test_a_long_life_leaks_nothing_and_forgets_its_old_cycles(database_url: str) -> None:
    options = tiny(dice("soak").randrange(1000), WORKSPACES)
    options.switches["fathom.token"] = TOKENS
    async with place(database_url, options, sources={"patience": "0s"}, history="1d") as spot:
        spot.settings["database"]["pool_size"] = POOL
        spot.settings["sources"]["fathom"]["limits"] = {"token": TOKENS}
        for workspace in spot.box.world.companies:
            for made in changes(dice("soak", workspace), TURNS * 2):
                spot.events(workspace, made)
        async with life(spot.settings, spot.clock.now()) as one:
            found = await lived(spot, one)
            for passes in (timedelta(hours=25), timedelta(hours=7), timedelta(minutes=15)):
                spot.pass_time(passes)
                await one.turn(spot.clock.now())
            await spot.reconnect()
        warm, last = found[TURNS // 3 : 2 * TURNS // 3], found[2 * TURNS // 3 :]
        told = f"{REPLAY}: {found}"
        assert most(last, "tasks") <= most(warm, "tasks"), told
        assert most(last, "databases") <= POOL, told
        assert least(last, "files") <= most(warm, "files"), told  # kept connections come and go with the faults
        assert most(last, "memory_mb") <= most(warm, "memory_mb") + MORE_MB, told
        oldest = (spot.clock.now() - HISTORY - STEP).replace(tzinfo=None)
        for table in ("cycles", "runs"):
            kept = await spot.one(f"SELECT MIN(started_at) FROM {table}")
            assert str(kept)[:16] >= oldest.isoformat(" ")[:16], f"{REPLAY}: {table} since {kept}"
        assert spot.breaches() == [], "\n".join([REPLAY, *spot.breaches()])
