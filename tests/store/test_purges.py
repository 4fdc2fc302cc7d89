"""Erasing: all of a connection or a workspace goes, at once, and what is beside it stays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.engine import make_url

from syncd.credentials import Vault, generate_key
from syncd.errors import LeaseLost
from syncd.source import Page
from syncd.store import Database, Line, Store, Which, purges
from syncd.tables import connections, messages, metadata
from tests.conftest import Clock
from tests.scripted import message

VAULT = Vault([generate_key()])
OF_CONNECTION = [table for table in metadata.sorted_tables if "connection_id" in table.c and table.name != "purges"]
VIEWS = ("slack_messages", "gong_calls", "fathom_sessions", "gmail_threads", "gmail_messages", "integrations")


def line(workspace: str, source: str = "slack", **more: Any) -> Line:
    return Line(workspace_id=workspace, source=source, credentials={"token": "t"}, **more)


def _value(column: Any, connection_id: int, clock: Clock) -> object:
    if column.name == "connection_id":
        return connection_id
    kind = column.type.python_type if "JSON" not in str(column.type).upper() else dict
    return {str: "x", int: 1, bool: True, float: 1.0, dict: {"a": 1}}.get(kind, clock())


async def filled(store: Store, clock: Clock, *lines: Line) -> None:
    """Connections, each with two rows in every table that may hold something of one."""
    await store.connections.put(lines, VAULT.seal)
    async with store.database.write() as session:
        for one in range(1, len(lines) + 1):
            for table in OF_CONNECTION:
                for row in ("a", "b"):
                    columns = [column for column in table.c if column.name != "id"]
                    values = {column.name: _value(column, one, clock) for column in columns}
                    texts = [name for name in ("external_id", "partition") if name in table.c]
                    await session.execute(insert(table).values(values | dict.fromkeys(texts, row)))


async def left(store: Store) -> dict[str, list[int]]:
    """Table → the connections of which it holds something."""
    found: dict[str, list[int]] = {}
    async with store.database.read() as session:
        for table in (*OF_CONNECTION, connections):
            key = "id" if table is connections else "connection_id"
            rows = await session.execute(text(f"SELECT DISTINCT {key} FROM {table.name} ORDER BY 1"))
            found[table.name] = [row[0] for row in rows]
    return found


def of(found: dict[str, list[int]]) -> list[int]:
    """The connections that every table agrees on."""
    (agreed,) = {tuple(ids) for ids in found.values()}
    return list(agreed)


@pytest.mark.parametrize(
    ("which", "stays"),
    [
        (Which(only=2), [1, 3, 4]),
        (Which(workspace="acme"), [3, 4]),
        (Which(workspace="acme", source="gong"), [1, 3, 4]),
        (Which(workspace="nobody"), [1, 2, 3, 4]),
    ],
)
async def test_all_that_is_held_goes_and_nothing_of_the_others(
    store: Store, clock: Clock, which: Which, stays: list[int]
) -> None:
    await filled(store, clock, line("acme"), line("acme", "gong"), line("other"), line("other", "gong"))
    await store.purges.purge(which, by="me")
    assert of(await left(store)) == stays


async def test_to_name_nothing_is_not_to_name_all(store: Store, clock: Clock) -> None:
    await filled(store, clock, line("acme"))
    with pytest.raises(ValueError, match="name"):
        await store.purges.purge(Which(source="slack"), by="me")
    assert of(await left(store)) == [1]


async def test_what_would_go_is_what_goes(store: Store, clock: Clock) -> None:
    await filled(store, clock, line("acme"), line("acme", "gong"), line("other"))
    announced = await store.purges.held(Which(workspace="acme"))
    assert await store.purges.purge(Which(workspace="acme"), by="me") == announced
    assert [one.counts for one in announced] == [{table.name: 2 for table in OF_CONNECTION}] * 2


async def test_more_rows_than_one_statement_takes_go_too(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purges, "_AT_ONCE", 1)
    await filled(store, clock, line("acme"))
    (gone,) = await store.purges.purge(Which(only=1), by="me")
    assert gone.counts["messages"] == 2
    assert of(await left(store)) == []


async def test_the_views_show_nothing_of_it(store: Store, clock: Clock) -> None:
    await filled(store, clock, line("acme"))
    await store.purges.purge(Which(workspace="acme"), by="me")
    async with store.database.read() as session:
        for view in VIEWS:
            assert (await session.execute(text(f"SELECT * FROM {view}"))).all() == []


async def test_a_line_without_the_account_stays(store: Store, clock: Clock) -> None:
    await filled(store, clock, line("acme", account="bob@acme.example"))
    await store.purges.purge(Which(workspace="acme"), by="me")
    (kept,) = await store.purges.log()
    assert kept == {
        "id": 1,
        "purged_at": clock(),
        "purged_by": "me",
        "connection_id": 1,
        "workspace_id": "acme",
        "source": "slack",
        "counts": {table.name: 2 for table in OF_CONNECTION},
    }


async def test_all_goes_or_nothing(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(store, clock, line("acme"), line("acme", "gong"))

    real = purges._erased

    async def erased(session: Any, table: Any, connection_id: int) -> int:
        if (table.name, connection_id) == ("messages", 2):
            raise ZeroDivisionError
        return await real(session, table, connection_id)

    monkeypatch.setattr(purges, "_erased", erased)
    with pytest.raises(ZeroDivisionError):
        await store.purges.purge(Which(workspace="acme"), by="me")
    assert of(await left(store)) == [1, 2]
    assert await store.purges.log() == []


async def test_the_sums_of_past_cycles_stay(store: Store, clock: Clock) -> None:
    await filled(store, clock, line("acme"))
    cycle_id = await store.cycles.begin("slack", "cli", None)
    async with store.database.write() as session:
        await session.execute(text(f"UPDATE cycles SET total = 7 WHERE id = {cycle_id}"))
    await store.purges.purge(Which(workspace="acme"), by="me")
    async with store.database.read() as session:
        assert (await session.execute(text("SELECT total FROM cycles"))).scalar_one() == 7


async def _stored(store: Store, name: str) -> None:
    await store.pages.checkpoint(
        [("messages", Page(records=[message(name)], cursor="c"))],
        connection_id=1,
        lease="l",
        run_id=1,
        records=1,
        calls=1,
    )


@pytest.mark.parametrize("purged", [True, False])
async def test_a_page_that_is_being_stored_is_not_left_behind(postgres_url: str, clock: Clock, purged: bool) -> None:
    """On PostgreSQL both are under way at once: the page has its lease, and waits for another's lock on its row."""
    one, two = Store(Database(postgres_url), clock), Store(Database(postgres_url), clock)
    await one.connections.put([line("acme")], VAULT.seal)
    await one.connections.hold(1, "l")
    async with two.database.engine.connect() as other:
        row = {column.name: _value(column, 1, clock) for column in messages.c}
        await other.execute(insert(messages).values(row | {"external_id": "a"}))
        storing = asyncio.create_task(_stored(one, "a"))
        await _blocked(two, 1)
        removing = two.purges.purge(Which(only=1), by="me") if purged else two.connections.remove(1)
        erasing: asyncio.Task[Any] = asyncio.create_task(removing)
        await _blocked(two, 2)
        await other.rollback()
    await asyncio.gather(storing, erasing)
    with pytest.raises(LeaseLost):
        await _stored(two, "b")
    assert (await left(two))["messages"] == ([] if purged else [1])
    assert (await left(two))["cursors"] == []
    await one.database.close()
    await two.database.close()


async def _blocked(store: Store, number: int) -> None:
    """Until so many transactions wait for another's lock."""
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    waiting: Sequence[Any] = []
    async with asyncio.timeout(10):
        while len(waiting) < number:
            async with store.database.read() as session:
                waiting = (await session.execute(text(query))).all()


async def test_what_was_erased_is_not_in_the_files_of_sqlite_any_more(sqlite_url: str, clock: Clock) -> None:
    store = Store(Database(sqlite_url), clock)
    await store.connections.put([line("acme")], VAULT.seal)
    await store.connections.hold(1, "l")
    await _stored(store, "the-name-of-a-message")
    await store.purges.purge(Which(only=1), by="me")
    file = Path(str(make_url(sqlite_url).database))
    content = b"".join(one.read_bytes() for one in file.parent.glob("syncd.db*"))
    await store.database.close()
    assert b"the-name-of-a-message" not in content
