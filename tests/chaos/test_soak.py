"""A long life in compressed time: one process, its clock moved from turn to turn, vendors that fail now and then.

``SYNCD_CHAOS=100 pytest tests/chaos/test_soak.py`` lives a week with 200 workspaces, which takes hours; less is less of both.
``SYNCD_SOAK_MINUTES=60`` puts an hour between two turns instead of a quarter, so that the same week has a fourth of the turns.
"""

from __future__ import annotations

import asyncio
import gc
import os
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from syncd.daemon import Parts, open_parts
from syncd.limits import Buckets
from syncd.settings import Settings
from syncd.sources import SOURCES
from tests.chaos.place import Place, changes, place, tiny
from tests.chaos.seeds import LENGTH, REPLAY, databases, dice
from tests.chaos.test_random import fault

WORKSPACES = min(2 * LENGTH, 200) or 1
STEP = timedelta(minutes=int(os.environ.get("SYNCD_SOAK_MINUTES", "15"))) if LENGTH else timedelta(hours=4)
TURNS = min(max(7 * LENGTH, 24), timedelta(days=7) // STEP) if LENGTH else 9
HISTORY = timedelta(days=1)  # the shortest that may be set
FAULTY = 0.3  # this share of the turns
MORE_MB = 24  # what a process may have grown by when it is warm: nothing but the allocator's slack
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds between two turns."""

    memory_mb: float
    tasks: int
    files: int
    databases: int


def held(parts: Parts) -> Held:
    gc.collect()
    pool = parts.store.database.engine.pool
    return Held(
        memory_mb=int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB,
        tasks=sum("RequestHandler" not in repr(task.get_coro()) for task in asyncio.all_tasks()),  # the sandbox's own
        files=len(list(Path("/proc/self/fd").iterdir())),
        databases=pool.checkedin() + pool.checkedout(),  # type: ignore[attr-defined]
    )


async def live(spot: Place, parts: Parts) -> list[Held]:
    """Turn by turn; answers what was held after each."""
    throw, rules, found = dice("soak"), spot.box.world.faults, []
    workspaces = list(spot.box.world.companies)
    for turn in range(TURNS):
        spot.pass_time(STEP)
        rules.rules.clear()
        if throw.random() < FAULTY:
            rules.add(fault(throw, workspaces))
        for name in SOURCES:
            parts.engine.start_cycle(name, spot.clock.now())
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name().startswith("cycle ")))
        spot.box.world.ledger.clear()
        found.append(held(parts))
        print(f"turn {turn + 1} of {TURNS}: {found[-1]}", flush=True)  # -s shows how far a long one is
    rules.rules.clear()
    return found


@pytest.mark.parametrize("database_url", databases("sqlite"), indirect=True)
async def test_a_long_life_leaks_nothing_and_forgets_its_old_cycles(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tiny(dice("soak").randrange(1000), WORKSPACES)
    async with place(database_url, options, sources={"patience": "0s"}, history="1d") as spot:
        monkeypatch.setattr("syncd.daemon.Buckets", partial(Buckets, spot.clock.monotonic))
        monkeypatch.setattr("syncd.http.ATTEMPT_S", 0.5)
        monkeypatch.setattr("syncd.engine._PRUNE_EVERY_S", 0.0)
        for workspace in spot.box.world.companies:
            for made in changes(dice("soak", workspace), TURNS * 2):
                spot.events(workspace, made)
        async with open_parts(Settings(**spot.settings), now=spot.clock.now) as parts:
            found = await live(spot, parts)
            for passes in (timedelta(hours=25), timedelta(hours=7), timedelta(minutes=15)):
                spot.pass_time(passes)
                cycles = [parts.engine.cycle(name, trigger="schedule", turn=spot.clock.now()) for name in SOURCES]
                await asyncio.gather(*cycles)
            await spot.reconnect()
        warm, last = found[TURNS // 3], found[-1]
        assert max(one.tasks for one in found) <= warm.tasks, f"{REPLAY}: {found}"
        assert last.databases <= parts.settings.database.pool_size, f"{REPLAY}: {found}"
        more = 3 * (
            last.databases - warm.databases
        )  # SQLite: the file, its log, its index; the pool fills as it is used
        assert last.files <= warm.files + more + 6, f"{REPLAY}: {found}"
        assert last.memory_mb <= warm.memory_mb + MORE_MB, f"{REPLAY}: {found}"
        oldest = (spot.clock.now() - HISTORY - STEP).replace(tzinfo=None)
        for table in ("cycles", "runs"):
            kept = await spot.one(f"SELECT MIN(started_at) FROM {table}")
            assert str(kept)[:16] >= oldest.isoformat(" ")[:16], f"{REPLAY}: {table} since {kept}"
        assert spot.breaches() == [], REPLAY
