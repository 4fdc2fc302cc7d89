"""What a stream may ask of the store, and the watches, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import command

from syncd.records import Deletion, Meeting, Message
from syncd.source import Page, Watch
from syncd.store import Database, Line, Store
from syncd.store.database import _config
from tests.conftest import Clock
from tests.store.test_pages import Held, held, message  # noqa: F401 - the fixture

NOON = datetime(2026, 1, 5, 12, 0, 0, 100, tzinfo=UTC)


def sent(name: str, at: datetime, **more: Any) -> Message:
    return message(name, sent_at=at, **more)


async def test_what_lies_in_a_span_of_time_is_found_to_the_microsecond_with_both_ends(held: Held) -> None:  # noqa: F811
    step = timedelta(microseconds=1)
    await held.put(Page(records=[sent(f"{n}", NOON + n * step) for n in range(5)]))
    of = held.store.looks.of(held.connection_id)
    found = await of.select(Message, between=(NOON + step, NOON + 3 * step))
    assert sorted(found) == ["1", "2", "3"]


async def test_a_selection_is_by_columns_and_gives_members_of_raw(held: Held) -> None:  # noqa: F811
    await held.put(
        Page(records=[message("1", "a", thread_id="t"), message("2", "b", thread_id="t"), message("3", "c")])
    )
    found = await held.store.looks.of(held.connection_id).select(Message, "text", conversation_id="C1", thread_id="t")
    assert found == {"1": ("a",), "2": ("b",)}


async def test_a_selection_takes_meetings_by_their_start_and_a_flag(held: Held) -> None:  # noqa: F811
    def meeting(name: str, *, private: bool) -> Meeting:
        return Meeting(external_id=name, raw={"id": name}, started_at=NOON, is_private=private)

    await held.put(Page(records=[meeting("1", private=True), meeting("2", private=False)]))
    of = held.store.looks.of(held.connection_id)
    assert list(await of.select(Meeting, is_private=True)) == ["1"]
    assert list(await of.select(Meeting, between=(NOON, NOON))) == ["1", "2"]


async def test_what_is_deleted_and_what_is_anothers_is_not_held(held: Held) -> None:  # noqa: F811
    await held.put(Page(records=[message("1"), message("2")], deletions=[Deletion(Message, "2")]))
    of = held.store.looks.of(held.connection_id)
    assert list(await of.select(Message)) == ["1"]
    assert await held.store.looks.of(held.connection_id + 1).select(Message) == {}


async def test_all_ids_come_in_batches_in_their_order(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("syncd.store.looks.AT_ONCE", 2)
    await held.put(Page(records=[message(f"{n}") for n in range(5)]))
    batches = [list(batch) async for batch in held.store.looks.of(held.connection_id).ids(Message)]
    assert batches == [["0", "1"], ["2", "3"], ["4"]]


async def test_a_comparison_tells_what_is_missing_and_what_is_stale(held: Held) -> None:  # noqa: F811
    await held.put(Page(records=[message("1"), message("2"), message("3")], deletions=[Deletion(Message, "3")]))
    fresh = [message("1"), message("2", "edited"), message("3"), message("4")]
    assert await held.store.looks.of(held.connection_id).compared(Message, fresh) == (["3", "4"], ["2"])


async def test_a_watch_is_due_when_its_time_has_come_the_longest_due_first(held: Held, clock: Clock) -> None:  # noqa: F811
    later, soon, other = timedelta(hours=2), timedelta(hours=1), Watch("c", timedelta(0), stream="else")
    await held.put(Page(watches=[Watch("a", later), Watch("b", soon), other]))
    assert await held.store.looks.due_watches(held.connection_id, "messages") == []
    clock.advance(hours=3)
    assert await held.store.looks.due_watches(held.connection_id, "messages") == ["b", "a"]
    assert await held.store.looks.due_watches(held.connection_id, "else") == ["c"]


async def test_a_watch_takes_its_new_time_and_goes_when_it_is_over(held: Held, clock: Clock) -> None:  # noqa: F811
    await held.put(Page(watches=[Watch("a", timedelta(0)), Watch("b", timedelta(0))]))
    await held.put(Page(watches=[Watch("a", timedelta(hours=1))], unwatched=["b"]))
    assert await held.store.looks.due_watches(held.connection_id, "messages") == []
    clock.advance(hours=1)
    assert await held.store.looks.due_watches(held.connection_id, "messages") == ["a"]


async def test_a_removed_connection_leaves_no_watch(held: Held) -> None:  # noqa: F811
    await held.put(Page(watches=[Watch("a", timedelta(0))]))
    await held.store.connections.remove(held.connection_id)
    assert await held.store.looks.due_watches(held.connection_id, "messages") == []


async def test_an_upgrade_watches_the_slack_threads_that_are_stored_already(database_url: str) -> None:
    database = Database(database_url)
    now = datetime.now(UTC)
    store = Store(database, lambda: now)
    for source in ("slack", "gmail"):
        await store.connections.put(
            [Line(workspace_id="w", source=source, credentials={"a": "b"})], lambda *_: "sealed"
        )
        cycle = await store.cycles.begin(source, "cli", None)
        claimed = await store.connections.claim(source, source, cycle, due=None)
        assert claimed is not None
        page = Page(records=[message("C1:2", thread_id="C1:1"), message("C1:3", thread_id="C1:1"), message("C1:4")])
        connection, run = claimed
        await store.pages.checkpoint(
            [("x", page)], connection_id=connection.id, lease=source, run_id=run, records=0, calls=0
        )
    for step in (command.downgrade, command.upgrade):
        async with database.engine.execution_options(syncd_writes=True).begin() as db:

            def move(sync: Any, step: Any = step) -> None:
                config = _config()
                config.attributes["connection"] = sync
                step(config, "0001" if step is command.downgrade else "head")

            await db.run_sync(move)
    assert await Store(database, lambda: datetime.now(UTC)).looks.due_watches(1, "threads") == ["C1:1"]
    assert await Store(database, lambda: datetime.now(UTC)).looks.due_watches(2, "threads") == []
    await database.close()
