"""History: old rows of cycles and runs go, in small bites, and nothing else does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import insert, select, update

from syncd.source import Page
from syncd.store import Store
from syncd.tables import cycles, runs
from tests.conftest import Clock
from tests.scripted import Bench, pages, source

HISTORY = timedelta(days=30)


async def past(store: Store, clock: Clock, *ages: int, run: int = 2, source_name: str = "slack", **more: Any) -> None:
    """A cycle of each of these ages in days, with some runs."""
    async with store.database.write() as session:
        for age in ages:
            at = clock() - timedelta(days=age)
            cycle = {"source": source_name, "trigger": "schedule", "turn": at, "status": "success", "started_at": at}
            made = await session.execute(insert(cycles).values(cycle | more).returning(cycles.c.id))
            cycle_id = made.scalar_one()
            for _ in range(run):
                ended = {"status": "succeeded", "started_at": at, "finished_at": at}
                await session.execute(insert(runs).values(cycle_id=cycle_id, connection_id=1, **ended))


async def pruned(store: Store, size: int = 500) -> list[int]:
    """Prune to the end; the size of each bite."""
    bites = []
    while bite := await store.cycles.prune("slack", HISTORY, size=size):
        bites.append(bite)
    return bites


async def left(store: Store) -> tuple[list[int], list[int]]:
    async with store.database.read() as session:
        of_cycles = (await session.execute(select(cycles.c.id).order_by(cycles.c.id))).scalars().all()
        of_runs = (await session.execute(select(runs.c.cycle_id).order_by(runs.c.id))).scalars().all()
    return list(of_cycles), list(of_runs)


async def test_what_is_older_than_the_history_goes_with_its_runs(store: Store, clock: Clock) -> None:
    await past(store, clock, 40, 31, 29, 1)
    await pruned(store)
    assert await left(store) == ([3, 4], [3, 3, 4, 4])


async def test_a_bite_is_small_and_leaves_no_run_without_its_cycle(store: Store, clock: Clock) -> None:
    await past(store, clock, 40, 39, 1, run=7)
    bites = []
    while bite := await store.cycles.prune("slack", HISTORY, size=3):
        bites.append(bite)
        of_cycles, of_runs = await left(store)
        assert set(of_runs) <= set(of_cycles)
    assert max(bites) <= 5
    assert await left(store) == ([3], [3] * 7)


async def test_the_last_cycle_stays_however_old(store: Store, clock: Clock) -> None:
    """The last turn's, by which a turn that comes again is known, and the last that is shown."""
    await past(store, clock, 90, 60)
    await past(store, clock, 56, 55, trigger="cli", turn=None)
    await past(store, clock, 50, trigger="backfill", turn=None)
    await pruned(store)
    assert (await left(store))[0] == [2, 4]


async def test_what_runs_stays_and_so_does_a_cycle_with_a_run_under_way(store: Store, clock: Clock) -> None:
    await past(store, clock, 60, status="running")
    await past(store, clock, 59, 58, 1)
    async with store.database.write() as session:
        await session.execute(update(runs).where(runs.c.id == 3).values(status="running"))
    await pruned(store)
    assert (await left(store))[0] == [1, 2, 4]


async def test_other_sources_history_is_their_own(store: Store, clock: Clock) -> None:
    await past(store, clock, 60, 1, source_name="gong")
    await pruned(store)
    assert (await left(store))[0] == [1, 2]


async def test_a_cycle_prunes_when_it_has_ended_and_then_not_for_an_hour(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    bench.engine._history = HISTORY
    await bench.connect("acme")
    await past(store, clock, 60, 5)
    await bench.cycle()
    assert (await left(store))[0] == [2, 3]
    await past(store, clock, 61, 4)
    await bench.cycle()
    assert 4 in (await left(store))[0]
    bench.engine._pruned_s["slack"] -= 3600
    await bench.cycle()
    assert (await left(store))[0] == [2, 3, 5, 6, 7]


async def test_a_database_that_fails_while_pruning_fails_no_cycle(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    bench.engine._history = HISTORY
    await bench.connect("acme")

    async def fail(*_: Any) -> int:
        raise OSError("no space left on device")

    store.cycles.prune = fail  # type: ignore[method-assign,assignment]
    assert (await bench.cycle())["successful_workspaces"] == 1
