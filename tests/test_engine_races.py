"""What happens to a run while it runs: new credentials, removal, key rotation, cuts, other daemons, hostile words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from syncd.credentials import Vault, generate_key
from syncd.errors import AuthError, CursorExpired, LeaseLost, Rejected, Transient
from syncd.http import Link
from syncd.source import Page, Pending, Since
from syncd.store import Line, Store
from syncd.tables import connections, messages
from tests.conftest import Clock
from tests.scripted import Bench, message, pages, source


async def held(bench: Bench) -> Any:
    connection = await bench.store.connections.get(1)
    assert connection is not None
    return bench.vault.open(1, connection.sealed)


async def give_new(bench: Bench) -> None:
    line = Line(workspace_id="acme", source="slack", credentials={"token": "new"})
    await bench.store.connections.put([line], bench.vault.seal)


async def test_new_credentials_during_a_run_survive_its_refresh(store: Store) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=[message("1")])
        await give_new(bench)
        await link.save({"token": "renewed from the old"})

    bench = Bench(store, source(read))
    await bench.connect("acme")
    await bench.cycle()
    assert await held(bench) == {"token": "new"}


async def test_new_credentials_during_a_run_that_ends_in_an_auth_error_stay_ok(store: Store) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=[message("1")])
        await give_new(bench)
        raise AuthError("token_revoked")

    bench = Bench(store, source(read))
    await bench.connect("acme")
    await bench.cycle()
    (connection,) = await bench.rows("connections")
    assert connection.status == "ok"


async def test_a_refresh_does_not_bring_removed_credentials_back(store: Store) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=[message("1")])
        await store.connections.remove(1)
        await link.save({"token": "renewed"})

    bench = Bench(store, source(read))
    await bench.connect("acme")
    await bench.cycle()
    (connection,) = await bench.rows("connections")
    assert connection.credentials is None


async def test_a_refresh_during_a_rotation_is_kept(store: Store) -> None:
    old, new = generate_key(), generate_key()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=[message("1")])
        await store.seals.rotate(Vault([new, old]).reseal)
        await link.save({"token": "renewed"})

    bench = Bench(store, source(read))
    bench.vault = bench.engine.runs._vault = Vault([new, old])
    await bench.connect("acme")
    await bench.cycle()
    assert await held(bench) == {"token": "renewed"}


async def test_outside_of_a_run_a_refresh_is_refused_once_the_credentials_changed(store: Store) -> None:
    """`connections check` renews tokens as well, without a lease."""
    bench = Bench(store, source(pages()))
    await bench.connect("acme")
    connection = await store.connections.get(1)
    assert connection is not None
    link = bench.engine.runs.link(bench.engine.plans["slack"], connection, {"token": "t"})
    await link.save({"token": "renewed once"})
    await link.save({"token": "renewed twice"})
    await give_new(bench)
    with pytest.raises(LeaseLost):
        await link.save({"token": "renewed too late"})
    assert await held(bench) == {"token": "new"}


async def test_a_run_that_lost_its_lease_forgets_no_cursor(store: Store, clock: Clock) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=[message("1")], cursor="kept", notes=["stored at once"])
        async with store.database.write() as session:
            await session.execute(update(connections).values(lease="another daemon's"))
        raise CursorExpired("404")

    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    await bench.cycle()
    assert await store.looks.cursors(1, "messages") == {"": "kept"}


@pytest.mark.parametrize("words", ["NUL \x00 byte", "lone \ud800 surrogate"])
async def test_hostile_words_in_an_error_end_the_run_as_any_other(store: Store, words: str) -> None:
    bench = Bench(store, source(pages(Rejected(words, hint=words))))
    await bench.connect("a", "b")
    assert (await bench.cycle())["failed_workspaces"] == 2
    assert [one.lease for one in await bench.rows("connections")] == [None, None]


@pytest.mark.parametrize("words", ["NUL \x00 byte", "lone \ud800 surrogate"])
async def test_hostile_words_in_backlog_and_cursor_are_stored_clean(store: Store, words: str) -> None:
    bench = Bench(store, source(pages(Page(pending=[Pending(words, words)], cursor=words, partition=words))))
    await bench.connect("acme")
    assert (await bench.cycle())["successful_workspaces"] == 1


async def test_a_secret_that_the_vendor_echoes_is_not_stored(store: Store) -> None:
    """A key without a known form is known by its value."""
    bench = Bench(store, source(pages(Rejected("no such key t-acme, and xoxb-12345678-abc", hint="is t-acme right?"))))
    await bench.connect("acme")
    status = await bench.cycle()
    (connection,), (run,) = await bench.rows("connections"), await bench.rows("runs")
    told = str(status) + connection.last_error + run.error + run.hint
    assert "t-acme" not in told
    assert "xoxb-" not in told


async def test_a_cut_cycle_tells_what_its_runs_did(store: Store, clock: Clock) -> None:
    stored = asyncio.Event()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=[message("1"), message("2")])
        stored.set()
        await asyncio.Event().wait()

    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    bench.engine.start_cycle("slack", clock())
    await stored.wait()
    await bench.engine.drain(0.01)
    (cycle,) = await bench.rows("cycles")
    assert (cycle.status, cycle.added) == ("interrupted", 2)


async def test_a_cut_between_claim_and_run_gives_the_connections_back(store: Store) -> None:
    bench = Bench(store, source(pages(Page())))
    await bench.connect("acme", "globex")
    claim, claiming = store.connections.claim_some, asyncio.Event()

    async def slow(*args: Any, **more: Any) -> Any:
        claimed = await claim(*args, **more)
        claiming.set()
        await asyncio.sleep(0.05)
        return claimed

    store.connections.claim_some = slow  # type: ignore[method-assign]
    cycle = asyncio.create_task(bench.cycle())
    await claiming.wait()
    cycle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cycle
    assert [one.lease for one in await bench.rows("connections")] == [None, None]
    assert [run.status for run in await bench.rows("runs")] == ["interrupted", "interrupted"]


async def test_a_cycle_that_is_cut_while_its_claim_fails_is_cut_and_its_runs_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, reading, claiming, fails = [store.connections.claim_some], asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def claims(*args: Any, **more: Any) -> Any:
        if first:
            return await first.pop()(*args, **more)
        claiming.set()
        await fails.wait()
        raise OSError("the server closed the connection")

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        reading.set()
        await asyncio.Event().wait()
        yield Page()

    bench = Bench(store, source(read), slots=2)
    await bench.connect("acme")
    monkeypatch.setattr(store.connections, "claim_some", claims)
    async with asyncio.timeout(10):
        cycle = asyncio.create_task(bench.cycle())
        await reading.wait()
        await claiming.wait()
        cycle.cancel()
        await asyncio.sleep(0)
        fails.set()
        with pytest.raises(asyncio.CancelledError):
            await cycle
    assert cycle.cancelled()


async def test_a_failed_run_is_tried_again_a_quarter_of_an_hour_later_then_half_an_hour(
    store: Store, clock: Clock
) -> None:
    """Although a run ends some seconds after its turn."""
    bench = Bench(store, source(pages(Transient("HTTP 500"))), clock)
    first = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
    clock.at = first
    await bench.connect("acme")
    tried = []
    for at in range(0, 90, 15):
        clock.at = first + timedelta(minutes=at, seconds=3)
        if (await bench.cycle(turn=first + timedelta(minutes=at)))["failed_workspaces"]:
            tried.append(at)
    assert tried == [0, 15, 45]


async def test_a_cycle_by_hand_that_died_is_told_by_the_next_one(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme")
    await store.cycles.begin("slack", "cli", None)
    clock.advance(hours=3)
    await bench.cycle()
    assert [cycle.status for cycle in await bench.rows("cycles")] == ["interrupted", "success"]


async def test_the_dead_run_of_a_connection_that_was_paused_since_is_told(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("a", "b")
    dead = await store.cycles.begin("slack", "schedule", clock())
    claimed = await store.connections.claim("slack", "of a dead daemon", dead, due=clock())
    assert claimed is not None
    await store.connections.set_active(claimed[0].id, active=False)
    clock.advance(hours=1)
    await bench.cycle(turn=clock())
    assert [run.status for run in await bench.rows("runs")] == ["interrupted", "succeeded"]
    assert [cycle.status for cycle in await bench.rows("cycles")] == ["interrupted", "success"]


async def test_a_joined_cycle_ends_with_its_last_daemon(store: Store, clock: Clock) -> None:
    reading, more = asyncio.Event(), asyncio.Event()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        if link.credentials["token"] == "t-a":
            reading.set()
            await more.wait()
        yield Page(records=[message("1")])

    one, two = Bench(store, source(read), clock, slots=1), Bench(store, source(read), clock, slots=1)
    two.vault = two.engine.runs._vault = one.vault
    await one.connect("a", "b")
    first = asyncio.create_task(one.cycle(turn=clock()))
    await reading.wait()
    await two.cycle(turn=clock())
    (cycle,) = await one.rows("cycles")
    assert cycle.status == "running"
    more.set()
    await first
    (cycle,) = await one.rows("cycles")
    assert (cycle.status, cycle.successful_workspaces) == ("success", 2)


async def test_a_record_that_is_back_as_it_was_has_not_changed(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page(records=[message("1")]))), clock)
    await bench.connect("acme")
    await bench.cycle()
    (before,) = await bench.rows("messages")
    async with store.database.write() as session:
        await session.execute(update(messages).values(deleted_at=clock()))
    clock.advance(hours=1)
    await bench.cycle()
    (after,) = await bench.rows("messages")
    assert (after.deleted_at, after.updated_at) == (None, before.updated_at)


async def test_a_wrong_key_is_the_operators_trouble_not_the_connections(store: Store) -> None:
    bench = Bench(store, source(pages(Page())))
    await bench.connect("acme")
    bench.engine.runs._vault = Vault([generate_key()])
    status = await bench.cycle()
    (connection,) = await bench.rows("connections")
    assert status["failures"][0]["kind"] == "sealed"
    assert (connection.status, connection.failures) == ("ok", 0)


async def test_a_run_that_takes_longer_than_a_turn_does_not_keep_the_others_from_theirs(
    store: Store, clock: Clock
) -> None:
    reading, more = asyncio.Event(), asyncio.Event()
    read_again = asyncio.Event()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        if link.credentials["token"] == "t-slow":
            reading.set()
            await more.wait()
        elif since.cursors:
            read_again.set()
        yield Page(cursor="read")

    bench = Bench(store, source(read), clock)
    await bench.connect("other", "slow")
    bench.engine.start_cycle("slack", clock())
    await reading.wait()
    async with asyncio.timeout(10):
        while bench.engine._claiming or bench.engine.runs.held != {2}:
            await asyncio.sleep(0.001)
    clock.advance(minutes=15)
    bench.engine.start_cycle("slack", clock())
    async with asyncio.timeout(10):
        await read_again.wait()
    more.set()
    await bench.engine.drain(10)
    assert [run.connection_id for run in await bench.rows("runs")] == [1, 2, 1]
