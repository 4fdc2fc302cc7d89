"""Cycles whose connections workers run: the queue decides who is asked, the claim decides who reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncd.errors import Transient
from syncd.http import Link
from syncd.policy import Draining, judge
from syncd.source import Page, Since
from syncd.store import Ended, Standing, Store
from syncd.store.jobs import Order
from syncd.worker import Worker, why_not
from tests.queueing import Floor, floor, queue_url
from tests.scripted import Bench, message, pages, source

__all__ = ["queue_url"]

READ = source(pages(Page(records=[message("1")])))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncd.worker._ASK_S", 0.1)
    monkeypatch.setattr("syncd.queue._LOOK_S", 0.1)


class Gate:
    """A stream that waits in mid-page until it is let on; ``reading``: the tokens of who waits."""

    def __init__(self) -> None:
        self.open, self.reading = asyncio.Event(), list[str]()

    async def read(self, link: Link, since: Since) -> AsyncIterator[Page]:
        self.reading.append(link.credentials["token"])
        await self.open.wait()
        yield Page(records=[message("1")])


async def until(what: Callable[[], bool | Awaitable[bool]], at_most_s: float = 20) -> None:
    async with asyncio.timeout(at_most_s):
        while not (done if isinstance(done := what(), bool) else await done):
            await asyncio.sleep(0.01)


async def runs(bench: Bench) -> list[tuple[int, str]]:
    return [(row.connection_id, row.status) for row in await bench.rows("runs")]


async def put(spot: Floor, *ids: int, cycle: int, due: datetime | None = None) -> int:
    """Jobs of a cycle, as a daemon puts them in."""
    assert spot.store.jobs is not None
    orders = [Order(cycle=cycle, connection=one, due=due, sweep=False) for one in ids]
    return await spot.store.jobs.put("slack", orders)


async def queued(spot: Floor, many: int) -> None:
    """Until so many jobs wait."""
    assert spot.store.jobs is not None
    jobs = spot.store.jobs

    async def waits() -> bool:
        depth = await jobs.depth()
        return depth is not None and depth.queued == many

    await until(waits)


async def done(spot: Floor, cycle: int) -> None:
    assert spot.store.jobs is not None
    jobs = spot.store.jobs

    async def none() -> bool:
        return not await jobs.left(cycle)

    await until(none)


async def test_a_worker_runs_what_a_daemon_schedules_and_the_status_object_is_the_same(queue_url: str) -> None:
    async with floor(queue_url, source(pages(Page(records=[message("1")]))), "a", "b", "c") as spot:
        spot.works()
        status = await spot.scheduler.cycle()
        assert (status["status"], status["successful_workspaces"], status["added"]) == ("success", 3, 3)
        row = (await spot.scheduler.rows("cycles"))[0]
        assert (row.status, row.successful_workspaces, row.added) == ("success", 3, 3)
        assert len(await spot.scheduler.rows("runs")) == 3


async def test_a_connection_that_waits_in_the_queue_is_not_put_in_twice(queue_url: str) -> None:
    async with floor(queue_url, READ, "a", "b") as spot:
        assert await put(spot, 1, 2, cycle=1) == 2
        assert await put(spot, 1, 2, cycle=2) == 0


async def test_daemons_that_share_a_turn_put_each_connection_in_once_and_all_tell_the_same(queue_url: str) -> None:
    async with floor(queue_url, READ, *"abcdef") as spot:
        others = [spot.bench(schedules=True) for _ in range(2)]
        turn = datetime.now(UTC)
        spot.works()
        daemons = [spot.scheduler, *others]
        told = await asyncio.gather(*(one.engine.cycle("slack", trigger="schedule", turn=turn) for one in daemons))
        assert [status["successful_workspaces"] for status in told] == [6, 6, 6]
        assert [row.status for row in await spot.scheduler.rows("cycles")] == ["success"]
        assert len(await runs(spot.scheduler)) == 6


async def test_a_job_that_is_delivered_twice_reads_nothing_the_second_time(queue_url: str) -> None:
    async with floor(queue_url, READ, "a") as spot:
        cycle = await spot.store.cycles.begin("slack", "schedule", datetime.now(UTC))
        spot.works()
        for _ in range(2):
            await put(spot, 1, cycle=cycle, due=datetime.now(UTC))
            await done(spot, cycle)
        assert await runs(spot.scheduler) == [(1, "succeeded")]


async def test_a_job_that_comes_late_reads_what_has_come_due_since(queue_url: str) -> None:
    """The turns after its own did not put it in again."""
    async with floor(queue_url, READ, "a") as spot:
        cycle = await spot.store.cycles.begin("slack", "schedule", datetime.now(UTC))
        await put(spot, 1, cycle=cycle, due=datetime.now(UTC) - timedelta(hours=1))
        spot.works()
        await done(spot, cycle)
        assert await runs(spot.scheduler) == [(1, "succeeded")]


async def test_a_connection_that_was_paused_after_it_was_put_in_is_not_read(queue_url: str) -> None:
    async with floor(queue_url, READ, "a") as spot:
        await put(spot, 1, cycle=1)
        await spot.store.connections.set_active(1, active=False)
        spot.works()
        await done(spot, 1)
        assert await runs(spot.scheduler) == []


async def test_a_job_that_is_none_of_ours_is_taken_away(queue_url: str) -> None:
    async with floor(queue_url, READ, "a") as spot:
        assert spot.store.jobs is not None
        headers = {"cycle": "7"}
        await spot.store.jobs.queries().enqueue("sync_slack", b"{}", headers=headers)
        spot.works()
        await done(spot, 7)


async def test_workers_share_a_cycle(queue_url: str) -> None:
    gate = Gate()
    async with floor(queue_url, source(gate.read), *"abcd") as spot:
        workers = [spot.works(slots=2) for _ in range(2)]
        cycle = asyncio.create_task(spot.scheduler.cycle())
        await until(lambda: len(gate.reading) == 4)
        assert [len(one.engine.live) for one in workers] == [2, 2]
        gate.open.set()
        assert (await cycle)["successful_workspaces"] == 4


async def test_a_worker_takes_no_more_jobs_than_it_can_begin(queue_url: str) -> None:
    gate = Gate()
    async with floor(queue_url, source(gate.read), *"abcd") as spot:
        spot.works(slots=1)
        cycle = asyncio.create_task(spot.scheduler.cycle())
        await until(lambda: len(gate.reading) == 1)
        assert spot.store.jobs is not None
        depth = await spot.store.jobs.depth()
        assert (depth.picked, depth.queued) == (1, 3)
        gate.open.set()
        await cycle


async def test_a_worker_that_stops_gives_its_connections_to_another_in_the_same_cycle(queue_url: str) -> None:
    gate = Gate()
    async with floor(queue_url, source(gate.read), "a", "b") as spot:
        worker, _ = spot.worker()
        worker.start()
        cycle = asyncio.create_task(spot.scheduler.engine.cycle("slack", trigger="schedule", turn=datetime.now(UTC)))
        await until(lambda: len(gate.reading) == 2)
        await worker.drain(0.0)
        assert await runs(spot.scheduler) == [(1, "interrupted"), (2, "interrupted")]
        gate.open.set()
        spot.works()
        assert (await cycle)["successful_workspaces"] == 2
        assert len(await spot.scheduler.rows("cycles")) == 1


async def test_a_connection_whose_runs_are_broken_off_is_tried_three_times_in_a_cycle(queue_url: str) -> None:
    """It may be what its worker dies of."""
    async with floor(queue_url, READ, "a") as spot:
        cycle = await spot.store.cycles.begin("slack", "cli", None)
        found = []
        for _ in range(4):
            claimed = await spot.store.connections.claim("slack", "x", cycle, due=None, again=True)
            found.append(claimed is not None)
            await spot.store.connections.release(1, "x")
        assert found == [True, True, True, False]


@pytest.mark.parametrize("grace_s", [0.0, 20.0], ids=["cut", "at a page boundary"])
async def test_a_worker_that_stops_puts_back_at_once_what_it_did_not_finish(queue_url: str, grace_s: float) -> None:
    gate = Gate()
    async with floor(queue_url, source(gate.read), "a") as spot:
        cycle = await spot.store.cycles.begin("slack", "cli", None)
        await put(spot, 1, cycle=cycle)
        worker, bench = spot.worker()
        worker.start()
        await until(lambda: len(gate.reading) == 1)
        draining = asyncio.create_task(worker.drain(grace_s))
        await until(lambda: bench.engine.runs.draining)
        if grace_s:
            gate.open.set()
        await draining
        assert await runs(spot.scheduler) == [(1, "interrupted")]
        await queued(spot, 1)


async def test_what_a_worker_gave_back_is_due_in_its_cycle_though_clocks_differ(queue_url: str) -> None:
    """Who stopped made it due as of its own clock, which is before ours."""
    async with floor(queue_url, READ, "a") as spot:
        cycle, due = await spot.store.cycles.begin("slack", "schedule", datetime.now(UTC)), datetime.now(UTC)
        claimed = await spot.store.connections.claim("slack", "x", cycle, due=due)
        assert claimed is not None
        verdict = judge(Draining(), now=due + timedelta(seconds=5), next_turn=due, failures=0)
        ahead = Store(spot.store.database, lambda: due + timedelta(seconds=5))
        assert await ahead.cycles.finish_run(claimed[1], claimed[0], "x", Ended(verdict=verdict))
        assert await spot.store.connections.claim("slack", "y", cycle, due=due, again=True) is not None


async def test_a_daemon_that_stops_leaves_what_waits_to_others_who_end_the_cycle(queue_url: str) -> None:
    async with floor(queue_url, READ, "a") as spot:
        turn = datetime.now(UTC)
        spot.scheduler.engine.start_cycle("slack", turn)
        await queued(spot, 1)
        await spot.scheduler.engine.drain(5)
        assert (await spot.scheduler.rows("cycles"))[0].status == "running"
        assert not await spot.store.cycles.has("slack", turn, ended=True)
        spot.works()
        other = spot.bench(schedules=True)
        status = await other.engine.cycle("slack", trigger="schedule", turn=turn)
        assert status["successful_workspaces"] == 1
        assert [row.status for row in await other.rows("cycles")] == ["success"]
        assert await spot.store.cycles.has("slack", turn, ended=True)


async def test_a_run_whose_job_is_gone_and_whose_worker_died_is_read_again_in_the_cycle(queue_url: str) -> None:
    """A frozen worker that wakes takes away the job of who has it by then."""
    async with floor(queue_url, READ, "a", lease=timedelta(seconds=1)) as spot:
        turn = datetime.now(UTC)
        cycle = await spot.store.cycles.begin("slack", "schedule", turn)
        assert await spot.store.connections.claim("slack", "dead", cycle, due=datetime.now(UTC)) is not None
        spot.works()
        status = await spot.scheduler.engine.cycle("slack", trigger="schedule", turn=turn)
        assert status["successful_workspaces"] == 1
        assert await runs(spot.scheduler) == [(1, "interrupted"), (1, "succeeded")]


async def test_who_asked_is_told_of_the_run_that_a_worker_began(queue_url: str) -> None:
    async with floor(queue_url, READ, "a") as spot:
        spot.works()
        asking = spot.scheduler.engine.ask("slack", workspace=None, only=1, sweep=False)
        assert asking is not None
        await asyncio.wait_for(asking.begun.wait(), 10)
        assert asking.run_id == 1
        await spot.scheduler.engine.drain(5)


async def test_what_was_asked_for_comes_before_what_waits(queue_url: str) -> None:
    gate = Gate()
    async with floor(queue_url, source(gate.read), *"abc") as spot:
        await put(spot, 1, 2, 3, cycle=9)
        asking = spot.scheduler.engine.ask("slack", workspace=None, only=3, sweep=False)
        assert asking is not None
        await queued(spot, 4)
        spot.works(slots=1)
        await until(lambda: bool(gate.reading))
        assert gate.reading == ["t-c"]
        gate.open.set()
        await until(asking.begun.is_set)
        await spot.scheduler.engine.drain(5)


async def test_one_source_does_not_hold_up_another(queue_url: str) -> None:
    """A worker has places of its own for each source."""
    async with floor(queue_url, READ, "a") as spot:
        assert spot.store.jobs is not None
        orders = [Order(cycle=9, connection=one, due=None, sweep=False) for one in range(100, 150)]
        await spot.store.jobs.put("gong", orders)
        spot.works()
        assert (await spot.scheduler.cycle())["successful_workspaces"] == 1


async def test_while_the_vendor_is_away_the_rest_of_the_cycle_stays_due(queue_url: str) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        raise Transient("no route")
        yield

    async with floor(queue_url, source(read), *"abcdefghijkl") as spot:
        worker = spot.works(slots=3)
        await spot.scheduler.engine.cycle("slack", trigger="schedule", turn=datetime.now(UTC))
        assert worker.engine.slots["slack"].unreachable
        assert 5 <= len(await runs(spot.scheduler)) < 12


async def test_the_depth_of_the_queue_is_told(queue_url: str) -> None:
    async with floor(queue_url, READ, "a", "b") as spot:
        assert spot.store.jobs is not None
        await put(spot, 1, 2, cycle=1)
        before = await spot.store.jobs.depth()
        assert (before.workers, before.queued, before.picked, before.repeated) == (0, 2, 0, 0)
        assert before.oldest_s is not None
        worker, _ = spot.worker()
        worker.start()
        await done(spot, 1)
        async with asyncio.timeout(10):  # it tells that it is there beside its work
            while (after := await spot.store.jobs.depth()).workers == 0:
                await asyncio.sleep(0.01)
        assert (after.workers, after.queued, after.oldest_s) == (1, 0, None)
        await worker.drain(1)
        assert (await spot.store.jobs.depth()).workers == 0


async def test_a_worker_of_no_source_drains(queue_url: str) -> None:
    async with floor(queue_url, READ) as spot:
        _, bench = spot.worker()
        assert bench.store.jobs is not None
        worker = Worker(bench.engine, bench.store, bench.store.jobs, sources=[])
        worker.start()
        await worker.drain(0.0)
        assert (await bench.store.jobs.depth()).workers == 0


NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
FINE: dict[str, Any] = {
    "status": "ok", "is_active": True, "assigned": True, "sealed": True, "next_sync_at": NOW, "limited_until": None,
    "leased_until": None, "ran": (),
}  # fmt: skip
LATER = NOW + timedelta(minutes=2)


@pytest.mark.parametrize(
    ("changed", "why", "again"),
    [
        ({"sealed": False}, "it was removed", None),
        ({"is_active": False}, "it is paused", None),
        ({"assigned": False}, "it belongs to no workspace", None),
        ({"status": "needs_reauth"}, "it waits for a person", None),
        ({"leased_until": LATER, "ran": ("running",)}, "its run in this cycle is not over", timedelta(seconds=121)),
        ({"leased_until": LATER}, "another process has it", None),
        ({"limited_until": LATER}, "its vendor asked to wait", None),
        ({"ran": ("interrupted", "succeeded")}, "it was read in this cycle already", None),
        ({"ran": ("interrupted",) * 3}, "its runs were broken off 3 times", None),
        ({"next_sync_at": LATER}, "it was read since", None),
        ({}, "another process changes it", timedelta(seconds=2)),
    ],
)
def test_a_job_that_reads_nothing_says_why(changed: dict[str, Any], why: str, again: timedelta | None) -> None:
    assert why_not(Standing(**FINE | changed), NOW, NOW, 1) == (why, again)
