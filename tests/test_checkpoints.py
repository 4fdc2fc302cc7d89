"""What a run asks and tells the database, and when: an idle one as little as can be, and still nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, update

from syncd.errors import CursorExpired, Transient
from syncd.http import Link
from syncd.source import Page, Pending, Since, Waiting, Watch
from syncd.store import Database, Store
from syncd.tables import backlog, connections
from tests.conftest import Clock
from tests.scripted import Bench, message, pages, source


@contextmanager
def transactions(database: Database) -> Iterator[list[str]]:
    """A sign for each transaction that begins."""
    begun: list[str] = []

    def began(connection: Any) -> None:
        begun.append("writes" if connection.get_execution_options().get("syncd_writes") else "reads")

    event.listen(database.engine.sync_engine, "begin", began)
    yield begun
    event.remove(database.engine.sync_engine, "begin", began)


async def held(store: Store) -> dict[str, str]:
    return await store.looks.cursors(1, "messages")


async def ran(store: Store, *steps: Page | Exception, clock: Clock | None = None) -> Bench:
    bench = Bench(store, source(pages(*steps)), clock)
    await bench.connect("acme")
    await bench.cycle()
    return bench


async def told(bench: Bench) -> Any:
    return (await bench.rows("runs"))[-1].cursors


# ── how often ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_idle_run_asks_once_and_tells_once(store: Store) -> None:
    bench = await ran(store, Page(cursor="1"))
    with transactions(store.database) as nothing_due:
        await bench.cycle(workspace="nobody")
    bench.engine.plans = Bench(store, source(pages(Page(cursor="2")))).engine.plans
    with transactions(store.database) as begun:
        await bench.cycle()
    # what a cycle takes by itself, and its last claim that finds nothing; then of the run claim, look and end
    assert len(begun) - len(nothing_due) == 1 + 3 + 0
    assert await held(store) == {"": "2"}


async def test_an_idle_run_tells_all_its_partitions_cursors_with_its_end(store: Store) -> None:
    def moves(to: str) -> list[Page]:
        return [Page(partition=name, cursor=to) for name in ("C1", "C\x002", "C3")]

    bench = await ran(store, *moves("1"))
    with transactions(store.database) as nothing_due:
        await bench.cycle(workspace="nobody")
    bench.engine.plans = Bench(store, source(pages(*moves("2"), *moves("3")))).engine.plans
    with transactions(store.database) as begun:
        await bench.cycle()
    assert len(begun) - len(nothing_due) == 1 + 3 + 0
    assert await held(store) == {"C1": "3", "C2": "3", "C3": "3"}


async def test_cursors_that_wait_beside_records_are_stored_with_these(store: Store) -> None:
    bench = await ran(store, Page(partition="C1", cursor="1"), page_of(1, "C2"), Page(partition="C3", cursor="1"))
    assert await held(store) == {"C1": "1", "C2": "1", "C3": "1"}
    assert len(await bench.rows("messages")) == 1


async def test_a_page_that_changes_nothing_is_not_written(store: Store, clock: Clock) -> None:
    bench = await ran(store, Page(cursor="1"), Page(cursor="1"), clock=clock)
    (before,) = await bench.rows("cursors")
    clock.advance(minutes=15)
    await bench.cycle()
    assert await bench.rows("cursors") == [before]


async def test_what_is_resolved_and_in_no_backlog_makes_no_transaction(store: Store) -> None:
    bench = await ran(store, Page(cursor="1"))
    bench.engine.plans = Bench(store, source(pages(Page(cursor="2", resolved=["C1"])))).engine.plans
    with transactions(store.database) as without:
        await bench.cycle()
    bench.engine.plans = Bench(store, source(pages(Page(cursor="3")))).engine.plans
    with transactions(store.database) as begun:
        await bench.cycle()
    assert sorted(begun) == sorted(without)


# ── nothing is lost by it ───────────────────────────────────────────────────────────────────────────────────────────


async def stored_after_each(store: Store, *steps: Page) -> list[list[str]]:
    """Of a run that yields these pages, the partitions whose cursor is stored after each."""
    seen: list[list[str]] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        for page in steps:
            yield page
            seen.append(sorted(await held(store)))

    bench = Bench(store, source(read))
    await bench.connect("acme")
    await bench.cycle()
    return seen


def page_of(rows: int, name: str, words: str = "hi") -> Page:
    return Page(records=[message(f"{name}{row}", words) for row in range(rows)], partition=name, cursor="1")


async def test_pages_wait_for_others_and_are_stored_in_one_transaction(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []
    checkpoint = store.pages.checkpoint

    async def counted(given: Sequence[tuple[str, Page]], **how: Any) -> Any:
        stored.append(len(given))
        return await checkpoint(given, **how)

    monkeypatch.setattr(store.pages, "checkpoint", counted)
    bench = Bench(store, source(pages(*(page_of(3, name) for name in "abcd"))))
    await bench.connect("acme")
    status = await bench.cycle()
    assert (stored, status["added"], sorted(await held(store))) == ([4], 12, ["a", "b", "c", "d"])


async def test_no_more_than_some_hundred_rows_wait(store: Store) -> None:
    seen = await stored_after_each(store, page_of(100, "a"), page_of(100, "b"), page_of(100, "c"), page_of(1, "d"))
    assert seen == [[], [], ["a", "b", "c"], ["a", "b", "c"]]


@pytest.mark.parametrize(("text", "html"), [(200_000, 0), (0, 70_000)])
async def test_no_more_text_waits_than_memory_can_bear(store: Store, text: int, html: int) -> None:
    """Of a mail its markup as well, which is in what the vendor sent once more."""
    large = Page(records=[replace(message("1", "x" * text), html="x" * html)], partition="a", cursor="1")
    assert await stored_after_each(store, large, page_of(1, "b", "x" * 60_000)) == [[], ["a", "b"]]


async def test_a_page_waits_no_longer_than_some_seconds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncd.checkpoints._HELD_S", 0.0)
    stored = asyncio.Event()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield page_of(1, "a")
        while not await held(store):  # a vendor that does not answer
            await asyncio.sleep(0)
        stored.set()

    bench = Bench(store, source(read))
    await bench.connect("acme")
    async with asyncio.timeout(10):
        await bench.cycle()
    assert stored.is_set()


async def test_what_fails_while_a_page_is_stored_late_ends_the_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the database is back by then: the cursor of a later page would cover what is lost."""
    monkeypatch.setattr("syncd.checkpoints._HELD_S", 0.0)
    failed, checkpoint = asyncio.Event(), store.pages.checkpoint

    async def fails_once(*given: Any, **how: Any) -> Any:
        if failed.is_set():
            return await checkpoint(*given, **how)
        failed.set()
        raise OSError(28, "No space left on device")

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield page_of(1, "a")
        await failed.wait()
        yield page_of(1, "b")

    bench = Bench(store, source(read))
    await bench.connect("acme")
    monkeypatch.setattr(store.pages, "checkpoint", fails_once)
    await bench.cycle()
    (run,) = await bench.rows("runs")
    assert (run.status, run.error_kind, await held(store)) == ("interrupted", "database", {})


async def test_of_what_two_pages_say_of_one_thing_the_later_holds(store: Store, clock: Clock) -> None:
    waits = Pending("C1", "closed", after=timedelta(days=1))
    bench = await ran(store, Page(pending=[waits], watches=[Watch("T1", timedelta(days=1))]), clock=clock)
    again = Page(pending=[waits], watches=[Watch("T1", timedelta(days=2))])
    steps = Page(resolved=["C1"], unwatched=["T1"]), again
    bench.engine.plans = Bench(store, source(pages(*steps))).engine.plans
    await bench.cycle()
    left = [[one.external_id for one in await bench.rows(table)] for table in ("backlog", "watches")]
    assert left == [["C1"], ["T1"]]


async def test_a_run_that_is_cut_stores_what_waits(store: Store) -> None:
    begun = asyncio.Event()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield page_of(2, "a")
        begun.set()
        await asyncio.Event().wait()

    bench = Bench(store, source(read))
    await bench.connect("acme")
    cycle = asyncio.create_task(bench.cycle())
    await begun.wait()
    cycle.cancel()
    await asyncio.wait([cycle])
    assert (sorted(await held(store)), (await bench.rows("runs"))[0].records) == (["a"], 2)


async def test_a_run_that_lost_its_lease_stores_no_page_that_waits(store: Store) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield page_of(2, "a")
        async with store.database.write() as session:
            await session.execute(update(connections).values(lease="theirs"))

    bench = Bench(store, source(read))
    await bench.connect("acme")
    status = await bench.cycle()
    assert (await bench.rows("messages"), await held(store), status["added"]) == ([], {}, 0)


async def test_the_later_of_two_cursors_of_a_partition_is_stored(store: Store) -> None:
    await ran(store, Page(cursor="1"), Page(cursor="2"))
    assert await held(store) == {"": "2"}


async def test_a_run_that_fails_keeps_where_its_last_page_got_to(store: Store) -> None:
    await ran(store, Page(cursor="1"), Transient("away"))
    assert await held(store) == {"": "1"}


async def test_a_run_that_lost_its_lease_stores_no_waiting_cursor(store: Store) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(cursor="1")
        async with store.database.write() as session:
            await session.execute(update(connections).values(lease="theirs"))

    bench = Bench(store, source(read))
    await bench.connect("acme")
    assert (await bench.cycle())["successful_workspaces"] == 0
    (run,) = await bench.rows("runs")
    assert await held(store) == {}
    assert (run.status, run.error_kind, run.cursors) == ("interrupted", "lease_lost", None)
    ended = {"source": "slack", "status": "succeeded"}
    assert bench.metrics.registry.get_sample_value("syncd_runs_total", ended) is None


async def test_a_cursor_that_the_vendor_forgot_is_not_stored_late(store: Store) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        read_from.append(dict(since.cursors))
        if len(read_from) == 1:
            yield Page(cursor="1")
            raise CursorExpired("gone")

    read_from: list[dict[str, str]] = []
    bench = Bench(store, source(read))
    await bench.connect("acme")
    await bench.cycle()
    assert (read_from, await held(store)) == ([{}, {}], {})


async def test_what_is_in_the_backlog_is_resolved(store: Store, clock: Clock) -> None:
    bench = await ran(store, Page(pending=[Pending("C1", "closed", after=timedelta(days=1))]), clock=clock)
    bench.engine.plans = Bench(store, source(pages(Page(resolved=["C1"])))).engine.plans
    await bench.cycle()
    assert await bench.rows("backlog") == []


async def test_what_a_run_puts_into_the_backlog_it_resolves_again(store: Store, clock: Clock) -> None:
    later = Pending("C1", "closed", after=timedelta(days=1))
    bench = await ran(store, Page(pending=[later]), Page(resolved=["C1"]), clock=clock)
    assert await bench.rows("backlog") == []


async def test_a_stream_sees_what_an_earlier_one_left_to_it_in_the_same_run(store: Store) -> None:
    seen: list[str] = []

    async def second(link: Link, since: Since) -> AsyncIterator[Page]:
        seen.extend(one.external_id for one in since.backlog)
        yield Page()

    left = Page(pending=[Pending("1", "details wait", stream="stream1")])
    bench = Bench(store, source(pages(left), second))
    await bench.connect("acme")
    await bench.cycle()
    assert seen == ["1"]


@pytest.mark.parametrize("more", [0, 600])
async def test_the_longest_due_come_first_however_long_the_backlog_is(store: Store, clock: Clock, more: int) -> None:
    seen: list[Waiting] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        seen.extend(since.backlog)
        yield Page()

    def waiting(name: str, minutes: int) -> dict[str, Any]:
        row = {"connection_id": 1, "stream": "messages", "external_id": name, "reason": "", "attempts": 1}
        return row | {"next_try_at": clock() + timedelta(minutes=minutes), "created_at": clock()}

    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    others = [waiting(f"{number}", 1) | {"stream": "else"} for number in range(more)]
    rows = [*others, waiting("late", -1), waiting("later", 1), waiting("first", -9)]
    async with store.database.write() as session:
        await session.execute(insert(backlog), rows)
    await bench.cycle()
    assert [one.external_id for one in seen] == ["first", "late"]


async def test_a_cursor_that_comes_again_after_the_vendor_forgot_it_is_stored(store: Store) -> None:
    begun: list[int] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        begun.append(1)
        yield Page(cursor="1")
        if len(begun) == 1:
            raise CursorExpired("gone")

    bench = Bench(store, source(read))
    await bench.connect("acme")
    await bench.cycle()
    assert await held(store) == {"": "1"}


async def test_a_claim_tells_the_run_whose_lease_ran_out_as_interrupted(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages()), clock)
    await bench.connect("acme")
    first, second = [await store.cycles.begin("slack", "cli", None) for _ in range(2)]
    assert await store.connections.claim("slack", "dies", first, due=None)
    clock.advance(minutes=6)
    assert await store.connections.claim("slack", "takes over", second, due=None)
    told = [(run.cycle_id, run.status, run.error_kind) for run in await bench.rows("runs")]
    assert told == [(first, "interrupted", "interrupted"), (second, "running", None)]


# ── what a run's row tells of cursors ───────────────────────────────────────────────────────────────────────────────


async def test_a_runs_row_tells_the_cursors_that_moved(store: Store) -> None:
    bench = await ran(store, Page(partition="C1", cursor="1"), Page(partition="C2", cursor="1"), Page(cursor="1"))
    assert await told(bench) == {"messages/C1": [None, "1"], "messages/C2": [None, "1"], "messages": [None, "1"]}
    steps = Page(partition="C1", cursor="2"), Page(partition="C1", cursor="3"), Page(cursor="1"), Page(forget=["C2"])
    bench.engine.plans = Bench(store, source(pages(*steps))).engine.plans
    await bench.cycle()
    assert await told(bench) == {"messages/C1": ["1", "3"], "messages/C2": ["1", None]}


async def test_a_runs_row_tells_no_cursor_where_none_moved(store: Store) -> None:
    bench = await ran(store, Page(cursor="1"))
    await bench.cycle()
    assert await told(bench) is None


async def test_a_runs_row_tells_twenty_cursors_at_most_and_each_in_short(store: Store) -> None:
    bench = await ran(store, *(Page(partition=f"C{number}", cursor="x" * 300) for number in range(25)))
    cut: Sequence[Any] = list((await told(bench)).values())
    assert cut == [[None, "x" * 200]] * 20


async def test_a_run_that_failed_tells_its_cursors_too(store: Store) -> None:
    bench = await ran(store, Page(cursor="1", records=[message("1")]), Transient("away"))
    assert await told(bench) == {"messages": [None, "1"]}


async def test_a_run_whose_page_could_not_be_stored_tells_only_the_cursors_that_moved(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield page_of(250, "a")
        monkeypatch.setattr(store.pages, "checkpoint", full)
        yield Page(forget=["a"])
        yield page_of(1, "b")

    async def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    bench = Bench(store, source(read))
    await bench.connect("acme")
    await bench.cycle()
    assert await told(bench) == {"messages/a": [None, "1"]}
