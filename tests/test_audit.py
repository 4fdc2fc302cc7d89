"""Comparing with the vendor on a scripted source and real stores: every kind of difference, and that nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update

from syncd.audit import IDS_KEPT, Audit, Finding
from syncd.errors import AuthError, RateLimited, Transient
from syncd.http import Link
from syncd.records import Deletion, Message, Person
from syncd.source import Page, Pending, Since
from syncd.store import Store
from syncd.tables import connections, messages
from tests.conftest import Clock
from tests.scripted import Bench, Script, message, pages, source

AT_VENDOR = Page(records=[message("1"), message("2"), Person(external_id="U", raw={"id": "U"})])


async def read_bench(store: Store, clock: Clock, audit: Script, *workspaces: str, **changes: Any) -> Bench:
    """Connections that hold what `AT_VENDOR` has."""
    bench = Bench(store, source(pages(AT_VENDOR), audit=[audit]), clock, **changes)
    await bench.connect(*(workspaces or ("acme",)))
    await bench.cycle()
    return bench


async def verified(bench: Bench, clock: Clock, **how: Any) -> list[Finding]:
    async def sleep(seconds: float) -> None:
        clock.advance(seconds=seconds)
        await asyncio.sleep(0)

    chosen = await bench.store.connections.all()
    audit = Audit(
        chosen, engine=bench.engine, store=bench.store, vault=bench.vault, now=clock, **{"sleep": sleep, **how}
    )
    await audit.run()
    return audit.findings


async def behind_its_back(store: Store, statement: Any) -> None:
    async with store.database.write() as session:
        await session.execute(statement)


def seen(found: Finding) -> dict[str, list[tuple[str, str]]]:
    return {name: list(getattr(found, name).named) for name in ("missing", "stale", "extra")}


async def test_what_is_stored_as_the_vendor_has_it_is_clean(store: Store, clock: Clock) -> None:
    (found,) = await verified(await read_bench(store, clock, pages(AT_VENDOR)), clock)
    assert found.clean
    assert (found.checked, seen(found)) == (3, {"missing": [], "stale": [], "extra": []})


async def test_a_row_that_was_removed_is_missing(store: Store, clock: Clock) -> None:
    bench = await read_bench(store, clock, pages(AT_VENDOR))
    await behind_its_back(store, delete(messages).where(messages.c.external_id == "1"))
    (found,) = await verified(bench, clock)
    assert not found.clean
    assert seen(found) == {"missing": [("messages", "1")], "stale": [], "extra": []}


async def test_a_row_that_is_marked_deleted_is_missing_too(store: Store, clock: Clock) -> None:
    bench = await read_bench(store, clock, pages(AT_VENDOR))
    await behind_its_back(store, update(messages).where(messages.c.external_id == "1").values(deleted_at=clock()))
    (found,) = await verified(bench, clock)
    assert seen(found)["missing"] == [("messages", "1")]


async def test_a_row_with_other_content_is_stale(store: Store, clock: Clock) -> None:
    bench = await read_bench(store, clock, pages(AT_VENDOR))
    await behind_its_back(store, update(messages).where(messages.c.external_id == "2").values(digest="another"))
    (found,) = await verified(bench, clock)
    assert not found.clean
    assert seen(found) == {"missing": [], "stale": [("messages", "2")], "extra": []}


async def test_a_row_that_the_vendor_no_longer_has_is_extra(store: Store, clock: Clock) -> None:
    gone = Page(deletions=[Deletion(Message, "1"), Deletion(Message, "never stored")])
    (found,) = await verified(await read_bench(store, clock, pages(gone)), clock)
    assert not found.clean
    assert seen(found) == {"missing": [], "stale": [], "extra": [("messages", "1")]}


async def test_what_is_not_ready_waits_and_is_no_difference(store: Store, clock: Clock) -> None:
    late = Pending("3", "its transcript is not ready")
    bench = Bench(store, source(pages(Page(pending=[late])), audit=[pages(Page(pending=[late, late]))]), clock)
    await bench.connect("acme")
    await bench.cycle()
    (found,) = await verified(bench, clock)
    assert (found.clean, found.waiting, found.backlog) == (True, 2, 1)


async def test_nothing_changes(store: Store, clock: Clock) -> None:
    """Neither records nor cursors, backlog, watches, runs or the connection's turns; the lease is free again."""
    page = Page(
        records=[message("1", "edited"), message("new")],
        deletions=[Deletion(Message, "2")],
        pending=[Pending("3", "not ready")],
        cursor="moved",
        forget=["elsewhere"],
    )
    bench = await read_bench(store, clock, pages(page))
    tables = ("connections", "messages", "people", "cursors", "backlog", "watches", "cycles", "runs")
    before = {name: await bench.rows(name) for name in tables}
    clock.advance(minutes=1)
    (found,) = await verified(bench, clock)
    assert not found.clean
    assert {name: await bench.rows(name) for name in tables} == before


async def test_a_note_is_a_fact_told_once(store: Store, clock: Clock) -> None:
    noted = Page(notes=["INBOX: 412 messages there, 37 stored; token t-acme"])
    (found,) = await verified(await read_bench(store, clock, pages(noted, noted)), clock)
    assert list(found.facts) == ["INBOX: 412 messages there, 37 stored; token **********"]


async def test_a_record_on_two_pages_is_one_difference(store: Store, clock: Clock) -> None:
    twice = Page(records=[message("3")])
    (found,) = await verified(await read_bench(store, clock, pages(twice, twice)), clock)
    assert found.missing.by_kind == {"messages": 1}


async def test_of_many_differences_all_are_counted_and_the_first_are_named(store: Store, clock: Clock) -> None:
    many = Page(records=[message(f"m{at}") for at in range(IDS_KEPT + 7)])
    (found,) = await verified(await read_bench(store, clock, pages(many)), clock)
    assert (found.missing.count, len(found.missing.named)) == (IDS_KEPT + 7, IDS_KEPT)


async def test_a_stream_is_told_how_far_and_how_much(store: Store, clock: Clock) -> None:
    asked: list[Since] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        asked.append(since)
        yield Page()

    bench = Bench(store, source(pages(Page(cursor="here")), audit=[read]), clock)
    await bench.connect("acme")
    await bench.cycle()
    await verified(bench, clock, sample=7)
    await verified(bench, clock, days=3)
    first, second = asked
    assert (first.sweep, first.lookback, first.sample) == (True, timedelta(days=7), 7)
    assert (second.lookback, second.sample) == (timedelta(days=3), None)
    assert dict(first.cursors) == {"": "here"}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AuthError("token_revoked", hint="give it a new one"), "token_revoked - give it a new one"),
        (Transient("HTTP 500"), "HTTP 500"),
        (RateLimited("HTTP 429", retry_after_s=30), "HTTP 429 - wait 30 s, then try again"),
        (ValueError("secret words of a defect"), "ValueError at"),
    ],
)
async def test_a_failure_is_told_and_stops_nobody_else(
    store: Store, clock: Clock, error: Exception, words: str
) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        if link.credentials["token"] == "t-b":
            raise error
        yield AT_VENDOR

    found = await verified(await read_bench(store, clock, read, "a", "b", "c", slots=1), clock)
    assert [one.clean for one in found] == [True, False, True]
    assert words in str(found[1].error)
    assert "secret" not in str(found[1].error)
    assert [row.lease for row in await store.connections.all()] == [None] * 3


async def test_a_run_of_another_process_is_waited_for(store: Store, clock: Clock) -> None:
    bench = await read_bench(store, clock, pages(AT_VENDOR))
    assert await store.connections.hold(1, "daemon")
    began = clock()

    async def sleep(seconds: float) -> None:
        clock.advance(seconds=seconds)
        if clock() - began == timedelta(seconds=30):
            await store.connections.release(1, "daemon")

    (found,) = await verified(bench, clock, sleep=sleep)
    assert found.clean
    assert clock() - began == timedelta(seconds=30)


async def test_one_that_is_read_for_long_is_told_as_such(store: Store, clock: Clock) -> None:
    bench = await read_bench(store, clock, pages(AT_VENDOR))
    assert await store.connections.hold(1, "daemon")
    began = clock()
    (found,) = await verified(bench, clock)
    assert "another process reads it" in str(found.error)
    assert clock() - began == timedelta(minutes=2)
    (connection,) = await store.connections.all()
    assert connection.lease == "daemon"


async def test_no_daemon_reads_a_connection_while_it_is_compared(store: Store, clock: Clock) -> None:
    """A page stored between reading and comparing would make differences of its own."""
    ran: list[int] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        ran.append((await bench.cycle())["successful_workspaces"])
        yield AT_VENDOR

    bench = await read_bench(store, clock, read)
    (found,) = await verified(bench, clock)
    assert (ran, found.clean) == ([0], True)


async def test_a_lease_that_was_lost_meanwhile_makes_no_verdict(store: Store, clock: Clock) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        await bench.connect("acme")
        yield AT_VENDOR

    bench = await read_bench(store, clock, read)
    (found,) = await verified(bench, clock)
    assert found.error == "the lease ran out and another daemon took over"


async def test_a_renewed_token_is_kept(store: Store, clock: Clock) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        await link.save({"token": "renewed"})
        yield AT_VENDOR

    bench = await read_bench(store, clock, read)
    await verified(bench, clock)
    (connection,) = await store.connections.all()
    assert bench.vault.open(1, connection.sealed) == {"token": "renewed"}


async def test_stopped_it_frees_its_lease(store: Store, clock: Clock) -> None:
    reading = asyncio.Event()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        reading.set()
        await asyncio.Event().wait()
        yield Page()

    task = asyncio.create_task(verified(await read_bench(store, clock, read), clock))
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (connection,) = await store.connections.all()
    assert (connection.lease, connection.leased_until) == (None, None)


async def test_no_more_are_compared_at_once_than_the_source_has_slots(store: Store, clock: Clock) -> None:
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
        yield AT_VENDOR

    found = await verified(await read_bench(store, clock, read, *"abcd", slots=2), clock)
    assert all(one.clean for one in found)
    assert most == 2


async def test_one_that_waits_for_a_person_or_for_its_vendor_is_not_asked(store: Store, clock: Clock) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        raise AssertionError("it was asked")
        yield Page()

    bench = await read_bench(store, clock, read, "a", "b")
    waits = {"status": "needs_reauth", "last_error": "token_revoked"}
    await behind_its_back(store, update(connections).where(connections.c.id == 1).values(**waits))
    later = {"limited_until": clock() + timedelta(hours=1)}
    await behind_its_back(store, update(connections).where(connections.c.id == 2).values(**later))
    first, second = await verified(bench, clock)
    assert first.error == "it waits for a person (needs reauth): token_revoked"
    assert second.error == "its vendor asks to wait until 2026-01-05 13:00 UTC"


async def test_a_source_without_an_audit_is_no_clean_one(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(AT_VENDOR)), clock)
    await bench.connect("acme")
    (found,) = await verified(bench, clock)
    assert (found.clean, found.error) == (False, "slack cannot be compared with its vendor")
