"""The engine on a scripted source and real stores: claims, isolation, verdicts, draining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from syncd.errors import AuthError, CursorExpired, Misconfigured, RateLimited, Rejected, Transient
from syncd.http import Link
from syncd.source import Page, Pending, Since
from syncd.store import Store
from syncd.tables import connections
from tests.conftest import Clock
from tests.scripted import Bench, message, pages, source


async def test_the_status_object_has_all_its_members(store: Store) -> None:
    bench = Bench(store, source(pages(Page(records=[message("1"), message("2")], cursor="c"))))
    await bench.connect("acme")
    status = await bench.cycle()
    assert status == {
        "source": "slack",
        "status": "success",
        "total_messages": 2,
        "successful_workspaces": 1,
        "failed_workspaces": 0,
        "deferred_workspaces": 0,
        "added": 2,
        "changed": 0,
        "deleted": 0,
        "calls": 0,
        "duration_s": status["duration_s"],
        "started_at": status["started_at"],
        "failures": [],
    }


async def test_no_active_connection_is_skipped(store: Store) -> None:
    assert (await Bench(store, source(pages())).cycle())["status"] == "skipped"


async def test_one_failure_stops_nobody_else(store: Store) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        if link.credentials["token"] == "t-b":
            raise Transient("HTTP 500")
        yield Page(records=[message("1")])

    bench = Bench(store, source(read), slots=1)
    await bench.connect("a", "b", "c")
    status = await bench.cycle()
    assert (status["successful_workspaces"], status["failed_workspaces"]) == (2, 1)
    assert [(one["workspace_id"], one["kind"], one["error"]) for one in status["failures"]] == [
        ("b", "transient", "HTTP 500")
    ]


async def test_what_was_read_before_a_failure_stays(store: Store) -> None:
    bench = Bench(store, source(pages(Page(records=[message("1")], cursor="c"), Transient("cut"))))
    await bench.connect("acme")
    assert (await bench.cycle())["added"] == 1
    assert len(await bench.rows("messages")) == 1


@pytest.mark.parametrize(
    ("error", "run_status", "connection_status"),
    [
        (AuthError("token_revoked"), "failed", "needs_reauth"),
        (Misconfigured("missing_scope"), "failed", "misconfigured"),
        (Transient("HTTP 500"), "failed", "ok"),
        (Rejected("no"), "failed", "ok"),
        (RateLimited("HTTP 429", retry_after_s=7200), "deferred", "ok"),
        (ValueError("a defect of ours"), "failed", "ok"),
    ],
)
async def test_an_error_decides_the_run_and_the_connection(
    store: Store, error: Exception, run_status: str, connection_status: str
) -> None:
    bench = Bench(store, source(pages(error)))
    await bench.connect("acme")
    await bench.cycle()
    (run,), (connection,) = await bench.rows("runs"), await bench.rows("connections")
    assert (run.status, connection.status, connection.lease) == (run_status, connection_status, None)


async def test_retry_after_is_when_the_connection_is_due_again(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(RateLimited("HTTP 429", retry_after_s=7200))), clock)
    await bench.connect("acme")
    await bench.cycle()
    (connection,) = await bench.rows("connections")
    assert connection.next_sync_at == clock() + timedelta(hours=2)


async def test_nobody_asks_before_retry_after_is_over_not_even_by_hand(store: Store, clock: Clock) -> None:
    """Another process has other buckets: what the vendor said is in the database."""
    bench = Bench(store, source(pages(RateLimited("HTTP 429", retry_after_s=7200))), clock)
    await bench.connect("acme")
    await bench.cycle()
    clock.advance(minutes=119)
    assert (await bench.cycle())["deferred_workspaces"] == 0
    clock.advance(minutes=1)
    assert (await bench.cycle())["deferred_workspaces"] == 1


async def test_the_text_of_a_defect_is_not_stored(store: Store) -> None:
    """An unexpected error's words may hold anything, a token among them."""
    bench = Bench(store, source(pages(ValueError("xoxb-secret"))))
    await bench.connect("acme")
    await bench.cycle()
    (run,) = await bench.rows("runs")
    assert "ValueError" in run.error
    assert "xoxb" not in run.error


async def test_a_paused_connection_and_one_that_waits_for_a_person_are_not_read(store: Store) -> None:
    bench = Bench(store, source(pages(AuthError("revoked"))))
    await bench.connect("a", "b")
    await store.connections.set_active(1, active=False)
    await bench.cycle()
    assert (await bench.cycle())["status"] == "skipped"


async def test_new_credentials_put_a_connection_back_to_work(store: Store) -> None:
    bench = Bench(store, source(pages(AuthError("revoked"))))
    await bench.connect("a")
    await bench.cycle()
    await bench.connect("a")
    assert (await bench.cycle())["failed_workspaces"] == 1


async def test_a_scheduled_cycle_takes_only_what_is_due(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page(records=[message("1")]))), clock)
    await bench.connect("acme")
    assert (await bench.cycle(turn=clock()))["successful_workspaces"] == 1
    clock.advance(minutes=1)
    assert (await bench.cycle(turn=clock()))["successful_workspaces"] == 0
    clock.advance(minutes=15)
    assert (await bench.cycle(turn=clock()))["successful_workspaces"] == 1


async def test_each_connection_is_run_once_in_a_cycle(store: Store) -> None:
    bench = Bench(store, source(pages(Page(records=[message("1")]))), slots=3)
    await bench.connect(*"abcdefg")
    assert (await bench.cycle())["successful_workspaces"] == 7
    assert len(await bench.rows("runs")) == 7


async def test_two_engines_at_once_share_the_connections(store: Store) -> None:
    """The lease, not the process, decides who runs a connection."""
    seen: list[str] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        seen.append(link.credentials["token"])
        yield Page(records=[message("1")])

    one, two = Bench(store, source(read)), Bench(store, source(read))
    two.vault = two.engine.runs._vault = one.vault
    await one.connect(*"abcdef")
    turn = one.engine._now()
    await asyncio.gather(*(bench.cycle(turn=turn) for bench in (one, two)))
    assert sorted(seen) == [f"t-{name}" for name in "abcdef"]
    assert len(await one.rows("cycles")) == 1


async def test_a_leased_connection_is_left_alone_until_the_lease_ran_out(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page(records=[message("1")]))), clock)
    await bench.connect("acme")
    dead = await store.cycles.begin("slack", "cli", None)
    assert await store.connections.claim("slack", "of a dead daemon", dead, due=None)
    assert (await bench.cycle())["successful_workspaces"] == 0
    clock.advance(minutes=6)
    assert (await bench.cycle())["successful_workspaces"] == 1
    assert [run.status for run in await bench.rows("runs")] == ["interrupted", "succeeded"]


async def test_concurrency_is_bounded_by_the_slots(store: Store) -> None:
    running = most = 0
    pair = asyncio.Barrier(2)

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await pair.wait()  # nobody goes on alone, so two do run at once
        running -= 1
        yield Page()

    bench = Bench(store, source(read), slots=2)
    await bench.connect(*"abcdef")
    await bench.cycle()
    assert most == 2


async def test_an_expired_cursor_starts_the_stream_again_once(store: Store) -> None:
    seen: list[dict[str, str]] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        seen.append(dict(since.cursors))
        if since.cursors.get("") == "old":
            raise CursorExpired("404")
        yield Page(records=[message("1")], cursor="old" if len(seen) == 1 else "new")

    bench = Bench(store, source(read))
    await bench.connect("acme")
    await bench.cycle()
    assert (await bench.cycle())["successful_workspaces"] == 1
    assert seen == [{}, {"": "old"}, {}]


async def test_a_stream_sees_its_due_backlog_and_what_is_stored(store: Store) -> None:
    seen: list[Any] = []

    async def announce(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=[message("1")], pending=[Pending("7", "new", stream="stream1")])

    async def details(link: Link, since: Since) -> AsyncIterator[Page]:
        from syncd.records import Message

        seen.append(([one.external_id for one in since.backlog], await since.held.stored(Message, ["1"], "text")))
        yield Page(resolved=["7"])

    bench = Bench(store, source(announce, details))
    await bench.connect("acme")
    await bench.cycle()
    assert seen == [(["7"], {"1": ("hi",)})]


async def test_a_run_past_its_time_limit_is_deferred_at_a_page_boundary(store: Store) -> None:
    bench = Bench(
        store,
        source(pages(Page(records=[message("1")], cursor="1"), Page(records=[message("2")], cursor="2"))),
        run_timeout=timedelta(0),
    )
    await bench.connect("acme")
    status = await bench.cycle()
    assert (status["deferred_workspaces"], status["added"]) == (1, 1)


async def test_a_sweep_reads_the_wide_window(store: Store) -> None:
    seen: list[tuple[bool, timedelta]] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        seen.append((since.sweep, since.lookback))
        yield Page()

    bench = Bench(store, source(read))
    await bench.connect("acme")
    await bench.cycle()
    await bench.cycle(sweep=True)
    assert seen == [(False, timedelta(hours=24)), (True, timedelta(days=7))]


async def test_the_schedule_sweeps_each_sweep_every(store: Store, clock: Clock) -> None:
    swept: list[bool] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        swept.append(since.sweep)
        yield Page()

    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    for _ in range(3 * 24 + 1):
        await bench.cycle(turn=clock())
        clock.advance(minutes=15)
    assert [at for at, sweep in enumerate(swept) if sweep] == [24, 48, 72]


async def test_a_sweep_that_never_ends_well_begins_anew_and_needs_no_run_that_did(store: Store, clock: Clock) -> None:
    """A sweep's parts that were done long ago are due again, whether or not the whole ever was."""
    due: list[datetime | None] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        due.append(since.sweep_due_at)
        yield Page()
        raise RateLimited("later")

    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    began = clock()
    for _ in range(4):
        await bench.cycle(turn=clock())
        clock.advance(hours=5)
    assert due == [None, None, began + timedelta(hours=6), began + timedelta(hours=12)]


async def test_draining_ends_runs_at_a_page_boundary_and_frees_the_lease(store: Store, clock: Clock) -> None:
    reading, more = asyncio.Event(), asyncio.Event()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        reading.set()
        await more.wait()
        yield Page(records=[message("1")], cursor="1")
        yield Page(records=[message("2")], cursor="2")

    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    bench.engine.start_cycle("slack", clock())
    await reading.wait()
    draining = asyncio.create_task(bench.engine.drain(10))
    await asyncio.sleep(0)
    more.set()
    await draining
    (connection,), (run,) = await bench.rows("connections"), await bench.rows("runs")
    assert (run.status, run.added, connection.lease, connection.failures) == ("interrupted", 1, None, 0)


async def test_a_run_that_does_not_end_within_the_grace_is_cut_and_its_lease_freed(store: Store, clock: Clock) -> None:
    reading = asyncio.Event()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        reading.set()
        await asyncio.Event().wait()
        yield Page()

    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    bench.engine.start_cycle("slack", clock())
    await reading.wait()
    await bench.engine.drain(0.01)
    (connection,), (run,) = await bench.rows("connections"), await bench.rows("runs")
    assert (run.status, connection.lease) == ("interrupted", None)


async def test_after_an_interruption_the_connection_is_due_at_once(store: Store, clock: Clock) -> None:
    await test_a_run_that_does_not_end_within_the_grace_is_cut_and_its_lease_freed(store, clock)
    bench = Bench(store, source(pages()), clock)
    (connection,) = await bench.rows("connections")
    assert connection.next_sync_at == clock()


async def test_a_cycle_that_still_claims_is_not_started_twice_and_says_so_once(
    store: Store, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    from syncd import logs

    logs.set_up("info", "json")
    reading, more = asyncio.Event(), asyncio.Event()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        reading.set()
        await more.wait()
        yield Page()

    bench = Bench(store, source(read), clock, slots=1)
    await bench.connect("a", "b")
    bench.engine.start_cycle("slack", clock())
    await reading.wait()
    for _ in range(3):
        clock.advance(minutes=15)
        bench.engine.start_cycle("slack", clock())
    more.set()
    await bench.engine.drain(10)
    assert len(await bench.rows("cycles")) == 1
    assert capsys.readouterr().err.count("cycle.still_running") == 1


async def test_a_secret_sealed_for_another_connection_is_refused(store: Store) -> None:
    bench = Bench(store, source(pages(Page())))
    await bench.connect("a", "b")
    first = await store.connections.get(1)
    assert first is not None
    assert first.sealed is not None
    async with store.database.write() as session:
        await session.execute(update(connections).where(connections.c.id == 2).values(credentials=first.sealed))
    status = await bench.cycle()
    assert status["failed_workspaces"] == 1
    assert "belong to connection 1" in status["failures"][0]["error"]
