"""The clock is set back or forth: the jobs, what is due, what a vendor asked, leases, and turns that come again."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from syncd import daemon
from syncd.bucket import Budget, Rate
from syncd.clock import watch_clock
from syncd.errors import RateLimited
from syncd.http import Link
from syncd.settings import Settings
from syncd.source import Page, Pending, Since, Watch
from syncd.store import Store
from tests.conftest import Clock
from tests.scripted import Bench, pages, source


class Clocks:
    """A wall clock and a monotonic one; each look at them may find what ``moves`` says next: (wall, monotonic)."""

    def __init__(self, *moves: tuple[float, float]) -> None:
        self.wall_s, self.monotonic_s, self.moves = 1e9, 100.0, list(moves)

    async def sleep(self, seconds: float) -> None:
        if not self.moves:
            raise asyncio.CancelledError
        wall, monotonic = self.moves.pop(0)
        self.wall_s += wall
        self.monotonic_s += monotonic

    async def steps(self) -> int:
        seen: list[None] = []

        async def stepped() -> None:
            seen.append(None)

        with pytest.raises(asyncio.CancelledError):
            await watch_clock(stepped, wall=lambda: self.wall_s, monotonic=lambda: self.monotonic_s, sleep=self.sleep)
        return len(seen)


@pytest.mark.parametrize(
    ("moves", "steps"),
    [
        ([(5, 5)] * 5, 0),
        ([(5, 5), (3605, 5), (5, 5)], 1),
        ([(5, 5), (-3595, 5), (5, 5)], 1),
        ([(5, 5), (3600, 3600), (5, 5)], 0),  # frozen for an hour
        ([(5, 5), (-3595, 5), (3605, 5)], 2),
        ([(5.01, 5)] * 5000, 0),  # it drifts, though by a minute in all
    ],
)
async def test_a_step_of_the_wall_clock_is_noticed_and_a_frozen_process_is_none(
    moves: list[tuple[float, float]], steps: int
) -> None:
    assert await Clocks(*moves).steps() == steps


async def test_after_a_step_the_jobs_turns_are_computed_anew_and_a_missed_one_is_caught_up(store: Store) -> None:
    bench = Bench(store, source(pages()))
    settings, started = Settings(), list[str]()
    bench.engine.start_cycle = lambda name, turn: started.append(name)  # type: ignore[method-assign]
    scheduler = daemon.make_scheduler(settings, bench.engine)
    scheduler.start(paused=True)
    try:
        for job in scheduler.get_jobs():
            job.modify(next_run_time=datetime.now(UTC) + timedelta(hours=5))
        parts = daemon.Parts(settings, store, bench.vault, bench.engine, None)  # type: ignore[arg-type]
        await daemon.plan_anew(settings, parts, scheduler)
        soon = datetime.now(UTC) + timedelta(minutes=16)
        assert all(job.next_run_time < soon for job in scheduler.get_jobs())
        assert started == ["slack", "gong", "fathom", "gmail"]
    finally:
        scheduler.shutdown(wait=False)


async def test_set_back_an_hour_each_connection_goes_on_at_the_next_turn(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("a", "b")
    await bench.cycle(turn=clock())
    clock.advance(hours=-1, minutes=-1)
    assert (await bench.cycle(turn=clock()))["successful_workspaces"] == 2
    clock.advance(minutes=5)
    assert (await bench.cycle(turn=clock()))["successful_workspaces"] == 0
    clock.advance(minutes=10)
    assert (await bench.cycle(turn=clock()))["successful_workspaces"] == 2


async def test_a_turn_that_comes_again_has_a_cycle_of_its_own(store: Store, clock: Clock) -> None:
    """In the old one every connection was run already."""
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme")
    first = clock()
    for at in range(5):
        clock.at = first + timedelta(minutes=15 * at)
        await bench.cycle(turn=clock())
    clock.at = first + timedelta(minutes=15)
    for _ in range(4):
        assert not await store.cycles.has("slack", clock())
        assert (await bench.cycle(turn=clock()))["successful_workspaces"] == 1
        assert await store.cycles.has("slack", clock())
        clock.advance(minutes=15)
    assert len(await bench.rows("cycles")) == 9


async def test_a_turn_that_comes_again_after_a_little_step_is_not_run_twice(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme")
    turn = clock()
    clock.advance(seconds=5)
    await bench.cycle(turn=turn)
    clock.advance(seconds=-5)
    assert (await bench.cycle(turn=turn))["successful_workspaces"] == 1
    assert (len(await bench.rows("cycles")), len(await bench.rows("runs"))) == (1, 1)


@pytest.mark.parametrize("hours", [-3, 3])
async def test_a_run_under_way_is_neither_doubled_nor_told_as_dead(store: Store, clock: Clock, hours: int) -> None:
    reading, more = asyncio.Event(), asyncio.Event()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        reading.set()
        await more.wait()
        yield Page()

    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    bench.engine.start_cycle("slack", clock())
    await reading.wait()
    clock.advance(hours=hours)
    async with asyncio.timeout(10):  # a doubled run would wait as well
        await bench.cycle()
    then = [run.status for run in await bench.rows("runs")]
    more.set()
    await asyncio.gather(*bench.engine._tasks)
    assert then == ["running"]
    assert [run.status for run in await bench.rows("runs")] == ["succeeded"]


async def test_a_lease_of_a_time_that_was_taken_back_holds_nobody(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme")
    dead = await store.cycles.begin("slack", "cli", None)
    assert await store.connections.claim("slack", "of a dead daemon", dead, due=None)
    clock.advance(hours=-1)
    assert (await bench.cycle())["successful_workspaces"] == 1
    assert [run.status for run in await bench.rows("runs")] == ["interrupted", "succeeded"]


async def test_a_lease_of_another_daemon_whose_clock_is_a_little_ahead_holds(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme")
    theirs = await store.cycles.begin("slack", "cli", None)
    assert await store.connections.claim("slack", "another daemon's", theirs, due=None)
    clock.advance(minutes=-4)
    assert (await bench.cycle())["successful_workspaces"] == 0


async def test_set_back_a_vendor_is_asked_no_earlier_than_it_said_and_not_an_hour_later(
    store: Store, clock: Clock
) -> None:
    asked: list[datetime] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        asked.append(clock())
        raise RateLimited("later", retry_after_s=1800)
        yield

    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    await bench.cycle(turn=clock())
    clock.advance(minutes=5, hours=-2)
    for minutes in (0, 20, 9):
        clock.advance(minutes=minutes)
        await bench.cycle(turn=clock())
        assert len(asked) == 1
    clock.advance(minutes=1)
    await bench.cycle(turn=clock())
    assert len(asked) == 2


@pytest.mark.parametrize("hours", [2, 24])
async def test_set_back_what_a_vendor_closed_or_lowered_is_over_after_its_span(
    store: Store, clock: Clock, hours: int
) -> None:
    bench = Bench(store, source(pages()), clock)
    await store.budgets.save("c", [Budget("m", closed_s=30.0, low_s=300.0)])
    clock.advance(hours=-hours)
    await bench.cycle()
    assert await store.budgets.of("c") == [Budget("m", closed_s=30.0, low_s=300.0)]
    clock.advance(seconds=30)
    assert await store.budgets.of("c") == [Budget("m", closed_s=0.0, low_s=270.0)]


async def test_set_back_what_was_drawn_counts_from_now_and_not_for_a_day(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages()), clock)
    await store.budgets.save("c", [Budget("m", drawn={"a process": [(40.0, 20), (0.0, 5)]})])
    clock.advance(days=-1)
    await bench.cycle()
    clock.advance(seconds=10)
    (known,) = await store.budgets.of("c")
    assert known.drawn == {"a process": [(10.0, 20), (10.0, 5)]}


async def test_set_back_a_year_what_was_granted_counts_for_a_day(store: Store, clock: Clock) -> None:
    """None of it for less: it may be drawn until its step is over."""
    bench, rate = Bench(store, source(pages()), clock), Rate(100, 86400.0)
    await store.budgets.reserve("c", "day", rate, 50)
    clock.advance(hours=3, minutes=30)
    await store.budgets.reserve("c", "day", rate, 50)
    clock.advance(days=-365)
    await bench.cycle()
    clock.advance(days=1, minutes=30)
    assert (await store.budgets.reserve("c", "day", rate, 51))[0] == 0
    clock.advance(minutes=1)
    assert (await store.budgets.reserve("c", "day", rate, 100))[0] == 100


async def test_set_back_a_limit_that_another_daemon_wrote_of_whose_clock_is_a_little_ahead_is_left_alone(
    store: Store, clock: Clock
) -> None:
    bench = Bench(store, source(pages()), clock)
    await store.budgets.save("c", [Budget("m", closed_s=30.0)])
    clock.advance(minutes=-4)
    await bench.cycle()
    assert await store.budgets.of("c") == [Budget("m", closed_s=270.0, low_s=0.0)]


async def test_a_sweep_waits_for_no_time_that_was_taken_back(store: Store, clock: Clock) -> None:
    swept: list[bool] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        swept.append(since.sweep)
        yield Page()

    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    clock.advance(days=365)
    await bench.cycle(sweep=True)
    clock.advance(days=-364)
    for _ in range(8):
        await bench.cycle(turn=clock())
        clock.advance(hours=1)
    assert swept == [True, *[False] * 6, True, False]


async def test_what_waits_in_backlog_and_watches_is_tried_again_after_a_step(store: Store, clock: Clock) -> None:
    seen: list[tuple[int, int]] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        seen.append((len(since.backlog), len(since.watched)))
        after = timedelta(hours=1)
        yield Page(pending=[Pending("1", "new", after=after)], watches=[Watch("2", after=after)])

    scripted = source(read)
    watching = tuple(replace(one, watches=True) for one in scripted.streams)
    bench = Bench(store, replace(scripted, streams=watching), clock)
    await bench.connect("acme")
    clock.advance(days=365)
    await bench.cycle()
    clock.advance(days=-365)
    await bench.cycle()
    assert seen == [(0, 0), (1, 1)]


async def test_a_cycle_by_hand_that_died_in_a_time_that_was_taken_back_is_told(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme")
    await store.cycles.begin("slack", "cli", None)
    clock.advance(hours=-3)
    await bench.cycle()
    assert [cycle.status for cycle in await bench.rows("cycles")] == ["interrupted", "success"]


def test_as_many_files_are_opened_as_may_be() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        daemon.raise_open_files()
        raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised == 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
