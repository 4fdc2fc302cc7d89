"""A backfill on a scripted source and real stores: it goes on, gives way, waits, and leaves the regular cycles alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from syncd.backfill import Backfill
from syncd.errors import AuthError, RateLimited, Transient
from syncd.http import Link
from syncd.source import Page, Since
from syncd.store import Store
from syncd.tables import connections
from tests.conftest import Clock
from tests.scripted import Bench, message, older, pages, source

BACK_TO = datetime(2025, 1, 1, tzinfo=UTC)
TURN = timedelta(minutes=15)


async def made(
    bench: Bench, clock: Clock, meanwhile: Callable[[], Awaitable[object]] | None = None, back_to: datetime = BACK_TO
) -> Backfill:
    """A backfill of all connections whose waiting moves the clock; ``meanwhile``: what happens at each wait."""

    async def sleep(seconds: float) -> None:
        clock.advance(seconds=seconds)
        if meanwhile:
            await meanwhile()
        await asyncio.sleep(0)

    return Backfill(
        await bench.store.connections.all(),
        back_to=back_to,
        engine=bench.engine,
        store=bench.store,
        vault=bench.vault,
        now=clock,
        sleep=sleep,
    )


async def read_bench(store: Store, clock: Clock, *workspaces: str, **how: Any) -> Bench:
    """Connections that had their first regular run; ``how``: as `source` takes, ``run_timeout`` and ``slots`` too."""
    changes = {name: how.pop(name) for name in ("run_timeout", "slots") if name in how}
    bench = Bench(store, source(how.pop("regular", pages()), **how), clock, **changes)
    await bench.connect(*(workspaces or ("acme",)))
    await bench.cycle()
    return bench


async def stored(bench: Bench) -> list[str]:
    return [row.external_id for row in await bench.rows("messages")]


async def test_older_history_is_read_and_told(store: Store, clock: Clock) -> None:
    bench = await read_bench(store, clock, backfill=[older("1", "2")])
    work = await made(bench, clock)
    await work.run()
    (part,) = work.parts
    assert (part.status, part.records, part.counts.added) == ("finished", 2, 2)
    assert part.reached == clock() - timedelta(days=2)
    assert await stored(bench) == ["1", "2"]


@pytest.mark.parametrize(
    "script", [older("1"), pages(Transient("HTTP 500"))], ids=["one that succeeds", "one that fails"]
)
async def test_it_says_nothing_of_the_regular_runs(store: Store, clock: Clock, script: Any) -> None:
    """Neither its success nor its failure is the connection's: the next turn comes when it would have come."""
    bench = await read_bench(store, clock, backfill=[script])
    async with store.database.write() as session:
        await session.execute(update(connections).values(failures=2, last_sweep_at=clock()))
    (before,) = await bench.rows("connections")
    clock.advance(minutes=2)
    await (await made(bench, clock)).run()
    (after,) = await bench.rows("connections")
    kept = ("next_sync_at", "failures", "last_success_at", "last_sweep_at", "status", "status_since", "last_error")
    assert {name: getattr(after, name) for name in kept} == {name: getattr(before, name) for name in kept}
    assert after.lease is None


async def test_the_last_cycle_that_status_shows_is_no_backfill(store: Store, clock: Clock) -> None:
    bench = await read_bench(store, clock, backfill=[older("1")])
    await (await made(bench, clock)).run()
    shown = await store.status.last_cycle("slack")
    assert shown is not None
    assert shown["trigger"] == "cli"
    assert [cycle.trigger for cycle in await bench.rows("cycles")] == ["cli", "backfill"]


async def test_what_takes_longer_than_a_run_goes_on_in_the_next_stint(store: Store, clock: Clock) -> None:
    seen: list[str] = []
    bench = await read_bench(
        store, clock, backfill=[older("1", "2", "3", before=seen.append)], run_timeout=timedelta(0)
    )
    work = await made(bench, clock)
    await work.run()
    assert seen == ["1", "2", "3"]
    assert (work.parts[0].status, work.parts[0].records) == ("finished", 3)
    assert [run.error_kind for run in await bench.rows("runs")][1:] == ["run_timeout"] * 3 + [None]


async def test_near_its_regular_turn_it_gives_way_and_goes_on_after_it(store: Store, clock: Clock) -> None:
    """Nobody else runs it here: after its turn the backfill makes the regular run itself."""
    order: list[str] = []

    async def regular(link: Link, since: Since) -> AsyncIterator[Page]:
        order.append("regular")
        yield Page()

    def before(name: str) -> None:
        order.append(name)
        if name == "1":
            clock.at = clock_at_turn - timedelta(seconds=29)

    bench = await read_bench(store, clock, regular=regular, backfill=[older("1", "2", before=before)])
    clock_at_turn = clock() + TURN
    work = await made(bench, clock)
    await work.run()
    assert order == ["regular", "1", "regular", "2"]
    assert clock() >= clock_at_turn + timedelta(seconds=30)
    assert [run.error_kind for run in await bench.rows("runs")] == [None, "gave_way", None, None]


async def test_a_daemon_that_comes_for_the_regular_turn_is_let_in(store: Store, clock: Clock) -> None:
    bench = await read_bench(store, clock, backfill=[older("1")])
    clock.advance(minutes=14, seconds=45)

    async def daemon() -> None:
        await bench.engine.cycle("slack", trigger="schedule", turn=clock())

    work = await made(bench, clock, daemon)
    await work.run()
    assert work.parts[0].status == "finished"
    triggers = {cycle.id: cycle.trigger for cycle in await bench.rows("cycles")}
    assert [triggers[run.cycle_id] for run in await bench.rows("runs")] == ["cli", "schedule", "backfill"]


async def test_a_connection_that_was_never_read_begins_with_its_first_run(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page(records=[message("new")])), backfill=[older("old")]), clock)
    await bench.connect("acme")
    began = clock()
    work = await made(bench, clock)
    await work.run()
    assert [cycle.trigger for cycle in await bench.rows("cycles")] == ["cli", "backfill"]
    assert clock() == began
    assert await stored(bench) == ["new", "old"]


async def test_a_first_run_that_fails_fails_the_backfill(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Transient("HTTP 500")), backfill=[older("old")]), clock)
    await bench.connect("acme")
    work = await made(bench, clock)
    await work.run()
    assert (work.parts[0].status, work.parts[0].error) == ("failed", "its first regular run failed: HTTP 500")


async def test_a_first_run_that_is_deferred_goes_on_at_its_turn(store: Store, clock: Clock) -> None:
    """It must not be begun over and over without a pause."""
    ran: list[datetime] = []

    async def regular(link: Link, since: Since) -> AsyncIterator[Page]:
        ran.append(clock())
        if len(ran) == 1:
            raise RateLimited("HTTP 429")
        yield Page()

    bench = Bench(store, source(regular, backfill=[older("old")]), clock)
    await bench.connect("acme")
    work = await made(bench, clock)
    await work.run()
    assert work.parts[0].status == "finished"
    assert ran[1] - ran[0] == TURN


async def test_a_lease_that_a_dead_process_left_is_waited_for(store: Store, clock: Clock) -> None:
    """As after kill -9: the same command goes on after the last page that was stored, and tries in vain no cycle."""
    seen: list[str] = []
    bench = await read_bench(store, clock, backfill=[older("1", "2", before=seen.append)])
    cycle_id = await store.cycles.begin("slack", "backfill", None)
    claimed = await store.connections.claim("slack", "dead", cycle_id, due=None)
    assert claimed
    cursor = Page(records=[message("1")], cursor=f"{BACK_TO.isoformat()}|1")
    await store.pages.checkpoint(
        [("backfill", cursor)], connection_id=1, lease="dead", run_id=claimed[1], records=1, calls=1
    )
    began = clock()
    work = await made(bench, clock)
    await work.run()
    assert clock() - began > timedelta(minutes=5)
    assert (seen, work.parts[0].status) == (["2"], "finished")
    assert len(await bench.rows("cycles")) == 3


async def test_the_vendors_wait_is_waited_for(store: Store, clock: Clock) -> None:
    asked: list[datetime] = []

    def before(_: str) -> None:
        asked.append(clock())
        if len(asked) == 1:
            raise RateLimited("HTTP 429", retry_after_s=120)

    bench = await read_bench(store, clock, backfill=[older("1", before=before)])
    work = await made(bench, clock)
    await work.run()
    assert work.parts[0].status == "finished"
    assert asked[1] - asked[0] == timedelta(seconds=120)
    assert len(await bench.rows("cycles")) == 3  # while it waits it begins nothing


async def test_its_own_used_up_budget_does_not_stop_the_regular_runs(store: Store, clock: Clock) -> None:
    """Half of a day's calls may be gone for hours; the other half is the regular cycles'."""
    waits: list[Any] = []
    asked: list[datetime] = []

    def before(_: str) -> None:
        asked.append(clock())
        if len(asked) == 1:
            raise RateLimited("our budget for day is used up", retry_after_s=1800, ours=True)

    async def daemon() -> None:
        (row,) = await bench.rows("connections")
        waits.append(row.limited_until)
        await bench.engine.cycle("slack", trigger="schedule", turn=clock())

    bench = await read_bench(store, clock, backfill=[older("1", before=before)])
    work = await made(bench, clock, daemon)
    await work.run()
    assert work.parts[0].status == "finished"
    assert timedelta(minutes=30) <= asked[1] - asked[0] < timedelta(minutes=31)
    assert set(waits) == {None}
    triggers = {cycle.id: cycle.trigger for cycle in await bench.rows("cycles")}
    assert [triggers[run.cycle_id] for run in await bench.rows("runs")].count("schedule") == 2


async def test_a_vendor_that_does_not_say_for_how_long_is_asked_again_after_a_minute(
    store: Store, clock: Clock
) -> None:
    asked: list[datetime] = []

    def before(_: str) -> None:
        asked.append(clock())
        if len(asked) == 1:
            raise RateLimited("HTTP 429")

    bench = await read_bench(store, clock, backfill=[older("1", before=before)])
    await (await made(bench, clock)).run()
    assert asked[1] - asked[0] == timedelta(seconds=60)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Transient("HTTP 500", hint="try later"), "HTTP 500 - try later"),
        (AuthError("token_revoked"), "token_revoked"),
        (ValueError("xoxb-secret-of-a-defect"), "ValueError at"),
    ],
)
async def test_a_failure_ends_that_connection_alone(store: Store, clock: Clock, error: Exception, words: str) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        if link.credentials["token"] == "t-b":
            raise error
        yield Page(records=[message("1")])

    bench = await read_bench(store, clock, "a", "b", "c", backfill=[read], slots=1)
    work = await made(bench, clock)
    await work.run()
    assert [part.status for part in work.parts] == ["finished", "failed", "finished"]
    assert words in str(work.parts[1].error)
    assert "secret" not in str(work.parts[1].error)


async def test_new_credentials_during_a_stint_do_not_end_it(store: Store, clock: Clock) -> None:
    given: list[str] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        if not given:
            given.append("new")
            await bench.connect("acme")
        yield Page(records=[message("1")])

    bench = await read_bench(store, clock, backfill=[read])
    work = await made(bench, clock)
    await work.run()
    assert work.parts[0].status == "finished"
    assert "lease_lost" in [run.error_kind for run in await bench.rows("runs")]


async def test_a_connection_that_is_paused_meanwhile_ends_with_that(store: Store, clock: Clock) -> None:
    bench = await read_bench(store, clock, backfill=[older("1")])
    work = await made(bench, clock)
    await store.connections.set_active(1, active=False)
    await work.run()
    assert (work.parts[0].status, work.parts[0].error) == ("failed", "it is paused")


async def test_stopped_it_frees_its_lease_and_the_same_again_goes_on(store: Store, clock: Clock) -> None:
    seen: list[str] = []
    reading = asyncio.Event()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        async for page in older("1", "2", before=seen.append)(link, since):
            yield page
            if seen == ["1"]:
                reading.set()
                await asyncio.Event().wait()

    bench = await read_bench(store, clock, backfill=[read])
    work = await made(bench, clock)
    task = asyncio.create_task(work.run())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (connection,) = await bench.rows("connections")
    assert (connection.lease, work.parts[0].status) == (None, "interrupted")
    assert [cycle.status for cycle in await bench.rows("cycles")] == ["success", "interrupted"]
    again = await made(bench, clock)
    await again.run()
    assert (seen, again.parts[0].status) == (["1", "2"], "finished")


async def test_a_stint_that_is_cut_while_its_claim_fails_is_cut(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    claiming, fails = asyncio.Event(), asyncio.Event()

    async def claims(*_: Any, **__: Any) -> Any:
        claiming.set()
        await fails.wait()
        raise OSError("the server closed the connection")

    bench = await read_bench(store, clock, backfill=[older("1")])
    work = await made(bench, clock)
    monkeypatch.setattr(store.connections, "claim", claims)
    task = asyncio.create_task(work.run())
    await claiming.wait()
    task.cancel()
    await asyncio.sleep(0)
    fails.set()
    await asyncio.wait([task])
    assert (task.cancelled(), work.parts[0].status) == (True, "interrupted")


async def test_another_date_reads_anew(store: Store, clock: Clock) -> None:
    """The date reaches the streams as it was asked for."""
    seen: list[str] = []
    bench = await read_bench(store, clock, backfill=[older("1", before=seen.append)])
    for year in (2024, 2023):
        await (await made(bench, clock, back_to=datetime(year, 1, 1, tzinfo=UTC))).run()
    assert seen == ["1", "1"]


async def test_no_more_connections_are_read_at_once_than_the_source_has_slots(store: Store, clock: Clock) -> None:
    running = most = 0
    pair = asyncio.Barrier(2)

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await pair.wait()  # nobody goes on alone, so two do run at once
        for _ in range(40):
            await store.connections.all()  # time enough for a third to come
        running -= 1
        yield Page()

    bench = await read_bench(store, clock, *"abcd", backfill=[read], slots=2)
    work = await made(bench, clock)
    await work.run()
    assert {part.status for part in work.parts} == {"finished"}
    assert most == 2
