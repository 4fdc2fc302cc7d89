"""Storing pages, on both databases: what is written, what is counted, what one transaction holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from syncd.errors import LeaseLost
from syncd.records import Conversation, Deletion, Message, Person
from syncd.source import Page, Pending
from syncd.store import Counts, Line, Store
from syncd.tables import messages
from tests.conftest import Clock


class Held:
    """A connection under a lease with a run, ready for pages."""

    def __init__(self, store: Store, connection_id: int, run_id: int) -> None:
        self.store, self.connection_id, self.run_id = store, connection_id, run_id

    async def put(self, page: Page, *, lease: str = "lease", stream: str = "messages") -> Counts:
        return await self.store.pages.checkpoint(
            [(stream, page)], connection_id=self.connection_id, lease=lease, run_id=self.run_id, records=0, calls=0
        )

    async def messages(self) -> list[dict[str, Any]]:
        async with self.store.database.read() as session:
            return [
                dict(row._mapping) for row in await session.execute(select(messages).order_by(messages.c.external_id))
            ]


@pytest.fixture
async def held(store: Store) -> Held:
    await store.connections.put(
        [Line(workspace_id="acme", source="slack", credentials={"token": "t"})], lambda _, __: "sealed"
    )
    cycle_id = await store.cycles.begin("slack", "cli", None)
    claimed = await store.connections.claim("slack", "lease", cycle_id, due=None)
    assert claimed is not None
    connection, run_id = claimed
    return Held(store, connection.id, run_id)


def message(name: str, words: str = "hi", **more: Any) -> Message:
    return Message(external_id=name, conversation_id="C1", raw={"ts": name, "text": words}, text=words, **more)


async def test_new_rows_are_counted_as_added(held: Held) -> None:
    assert await held.put(Page(records=[message("1"), message("2")])) == Counts(added=2)


async def test_the_same_page_again_writes_nothing(held: Held, clock: Clock) -> None:
    await held.put(Page(records=[message("1")]))
    before = await held.messages()
    clock.advance(hours=1)
    assert await held.put(Page(records=[message("1")])) == Counts()
    assert await held.messages() == before


async def test_changed_content_moves_updated_at_and_keeps_created_at(held: Held, clock: Clock) -> None:
    await held.put(Page(records=[message("1")]))
    began = clock()
    clock.advance(hours=1)
    assert await held.put(Page(records=[message("1", "edited")])) == Counts(changed=1)
    row = (await held.messages())[0]
    assert (row["created_at"], row["updated_at"], row["text"]) == (began, clock(), "edited")


async def test_a_change_outside_of_stable_is_no_change(held: Held) -> None:
    await held.put(Page(records=[Message(external_id="1", conversation_id="C", raw={"a": 1, "x": 1}, stable={"a": 1})]))
    again = Message(external_id="1", conversation_id="C", raw={"a": 1, "x": 2}, stable={"a": 1})
    assert await held.put(Page(records=[again])) == Counts()


async def test_the_order_of_members_does_not_change_the_digest(held: Held) -> None:
    await held.put(Page(records=[Person(external_id="1", raw={"a": 1, "b": {"c": 2, "d": 3}})]))
    assert await held.put(Page(records=[Person(external_id="1", raw={"b": {"d": 3, "c": 2}, "a": 1})])) == Counts()


async def test_of_one_key_twice_in_a_page_the_last_wins(held: Held) -> None:
    assert await held.put(Page(records=[message("1", "first"), message("1", "last")])) == Counts(added=1)
    assert (await held.messages())[0]["text"] == "last"


async def test_a_deletion_keeps_the_content(held: Held, clock: Clock) -> None:
    await held.put(Page(records=[message("1", "kept")]))
    assert await held.put(Page(deletions=[Deletion(Message, "1"), Deletion(Message, "unknown")])) == Counts(deleted=1)
    row = (await held.messages())[0]
    assert (row["deleted_at"], row["text"]) == (clock(), "kept")


async def test_a_deletion_told_again_counts_once(held: Held) -> None:
    await held.put(Page(records=[message("1")]))
    await held.put(Page(deletions=[Deletion(Message, "1")]))
    assert await held.put(Page(deletions=[Deletion(Message, "1")])) == Counts()


async def test_a_record_that_comes_back_is_live_again(held: Held) -> None:
    await held.put(Page(records=[message("1")]))
    await held.put(Page(deletions=[Deletion(Message, "1")]))
    assert await held.put(Page(records=[message("1")])) == Counts(changed=1)
    assert (await held.messages())[0]["deleted_at"] is None


async def test_more_rows_than_one_statement_takes(held: Held) -> None:
    assert await held.put(Page(records=[message(f"{n:05}") for n in range(1300)])) == Counts(added=1300)


async def test_what_postgresql_refuses_is_taken_out(held: Held) -> None:
    """NUL and lone surrogates cannot be stored; a vendor may send them."""
    hostile = Message(external_id="1", conversation_id="C", raw={"t": "a\x00b", "s": "\ud800"}, text="a\x00b\ud800")
    await held.put(Page(records=[hostile]))
    row = (await held.messages())[0]
    assert (row["text"], row["raw"]) == ("ab?", {"t": "ab", "s": "?"})


async def test_a_nul_is_taken_out_of_a_column_where_the_raw_has_none(held: Held) -> None:
    words = 'say "a\\u0000b" \n'
    await held.put(Page(records=[Message(external_id="1", conversation_id="C", raw={}, text=f"{words}a\x00b")]))
    assert (await held.messages())[0]["text"] == f"{words}ab"


async def test_integers_beyond_64_bits_survive_as_text(held: Held) -> None:
    await held.put(Page(records=[Person(external_id="1", raw={"n": 2**70})]))
    assert await held.store.looks.of(held.connection_id).stored(Person, ["1"], "n") == {"1": (str(2**70),)}


async def test_json_columns_and_times_come_back_as_they_went(held: Held) -> None:
    sent = datetime(2026, 1, 1, 10, 30, 0, 123456, tzinfo=UTC)
    await held.put(Page(records=[message("1", labels=["INBOX"], attachments=[{"id": "F1", "size": 3}], sent_at=sent)]))
    row = (await held.messages())[0]
    assert (row["labels"], row["attachments"], row["recipients"], row["sent_at"]) == (
        ["INBOX"],
        [{"id": "F1", "size": 3}],
        [],
        sent,
    )


async def test_a_lost_lease_writes_nothing(held: Held) -> None:
    with pytest.raises(LeaseLost):
        await held.put(Page(records=[message("1")], cursor="c"), lease="another")
    assert await held.messages() == []
    assert await held.store.looks.cursors(held.connection_id, "messages") == {}


async def test_a_page_renews_the_lease(held: Held, clock: Clock) -> None:
    clock.advance(minutes=4)
    await held.put(Page())
    connection = await held.store.connections.get(held.connection_id)
    assert connection is not None
    assert connection.leased_until == clock() + timedelta(minutes=5)


async def test_a_page_that_fails_leaves_neither_rows_nor_cursor(held: Held) -> None:
    bad = Conversation(external_id="2", raw={}, kind=None)  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"(?i)null"):
        await held.put(Page(records=[message("1"), bad], cursor="c"))
    assert await held.messages() == []
    assert await held.store.looks.cursors(held.connection_id, "messages") == {}


async def test_cursors_by_partition(held: Held) -> None:
    await held.put(Page(cursor="1", partition="C1"))
    await held.put(Page(cursor="2", partition="C2"))
    await held.put(Page(cursor="3", partition="C1"))
    assert await held.store.looks.cursors(held.connection_id, "messages") == {"C1": "3", "C2": "2"}


async def test_forgotten_partitions_lose_their_cursor(held: Held) -> None:
    await held.put(Page(cursor="1", partition="C1"))
    await held.put(Page(cursor="2", partition="C2", forget=["C1"]))
    assert await held.store.looks.cursors(held.connection_id, "messages") == {"C2": "2"}


async def test_an_announcement_is_due_at_once_and_changes_nothing_when_repeated(held: Held, clock: Clock) -> None:
    await held.put(Page(pending=[Pending("7", "new", stream="details")]))
    clock.advance(minutes=1)
    await held.put(Page(pending=[Pending("7", "announced again", stream="details")]))
    (item,) = await held.store.looks.due_backlog(held.connection_id, "details")
    assert (item.external_id, item.reason, item.attempts) == ("7", "new", 0)


async def test_a_try_that_failed_waits_longer_each_time(held: Held, clock: Clock) -> None:
    gaps = []
    for _ in range(3):
        await held.put(Page(pending=[Pending("7", "not ready")]), stream="details")
        waited = 0
        while not await held.store.looks.due_backlog(held.connection_id, "details"):
            clock.advance(minutes=1)
            waited += 1
        gaps.append(waited)
    assert gaps == [10, 20, 40]


async def test_resolved_items_leave_the_backlog(held: Held) -> None:
    await held.put(Page(pending=[Pending("7", "new", stream="details")]))
    await held.put(Page(resolved=["7"]), stream="details")
    assert await held.store.looks.due_backlog(held.connection_id, "details") == []


async def test_stored_answers_members_of_raw_for_live_records_only(held: Held) -> None:
    await held.put(Page(records=[message("1"), message("2", "two"), message("3")], deletions=[Deletion(Message, "3")]))
    found = await held.store.looks.of(held.connection_id).stored(Message, ["1", "2", "3", "4"], "text", "absent")
    assert found == {"1": ("hi", None), "2": ("two", None)}


async def test_stored_without_members_tells_presence_and_a_star_the_whole_raw(held: Held) -> None:
    await held.put(Page(records=[message("1")]))
    assert await held.store.looks.of(held.connection_id).stored(Message, ["1", "2"]) == {"1": ()}
    assert await held.store.looks.of(held.connection_id).stored(Message, ["1"], "*") == {
        "1": ({"ts": "1", "text": "hi"},)
    }


async def test_the_run_counts_what_its_pages_wrote(held: Held) -> None:
    await held.put(Page(records=[message("1"), message("2")]))
    await held.put(Page(records=[message("2", "x")], deletions=[Deletion(Message, "1")]))
    async with held.store.database.read() as session:
        row = (await session.execute(text("SELECT added, changed, deleted FROM runs"))).one()
    assert tuple(row) == (2, 1, 1)
