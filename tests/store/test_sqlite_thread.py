"""SQLite in a thread: a transaction in one hop, and whole whatever happens to who asked for it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event, func, insert, select
from sqlalchemy.util import greenlet_spawn

from syncd.store import Database
from syncd.tables import budgets

_PUT = insert(budgets)
_ALL = select(func.count()).select_from(budgets)


def row(name: str) -> dict[str, Any]:
    return {"credential": "c", "name": name, "drawn": {}, "updated_at": datetime(2026, 1, 5, tzinfo=UTC)}


@pytest_asyncio.fixture
async def database(sqlite_url: str) -> AsyncIterator[Database]:
    one = Database(sqlite_url)
    yield one
    await one.close()


async def count(database: Database) -> int:
    return await database.ask(lambda db: int(db.execute(_ALL).scalar_one()))


async def test_all_its_statements_are_made_in_the_connections_thread(database: Database) -> None:
    threads: list[str] = []
    engine = database.engine.sync_engine
    for name in ("begin", "before_cursor_execute", "commit"):
        event.listen(engine, name, lambda *_: threads.append(threading.current_thread().name))
    await database.change(lambda db: [db.execute(_PUT, row(name)) for name in "ab"])
    assert len(threads) == 5
    assert len({*threads}) == 1
    assert threading.current_thread().name not in threads
    assert await count(database) == 2


async def test_what_fails_leaves_nothing(database: Database) -> None:
    def fails(db: Any) -> None:
        db.execute(_PUT, row("a"))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.change(fails)
    assert await count(database) == 0
    assert database.pool[1] == 0


async def test_the_loop_goes_on_meanwhile(database: Database) -> None:
    go = threading.Event()
    asking = asyncio.create_task(database.ask(lambda _: go.wait(10)))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not asking.done()
    assert await count(database) == 0, "another connection answers"
    go.set()
    assert await asking


@pytest.mark.parametrize("times", [1, 2])
async def test_who_is_cut_waits_for_its_end_and_no_other_writes_meanwhile(database: Database, times: int) -> None:
    begun, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(db: Any) -> None:
        db.execute(_PUT, row("a"))
        loop.call_soon_threadsafe(begun.set)
        go.wait(10)

    writing = asyncio.create_task(database.change(slow))
    async with asyncio.timeout(10):
        await begun.wait()
    other = asyncio.create_task(database.change(lambda db: db.execute(_PUT, row("b")).rowcount))
    for _ in range(times):
        writing.cancel()
        await asyncio.sleep(0)
    assert not writing.done()
    assert database.pool[1] == 1
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await other == 1
    assert await count(database) == 2
    assert database.pool[1] == 0


async def test_a_session_and_a_hop_see_each_others_writes(database: Database) -> None:
    async with database.write() as session:
        await session.execute(_PUT, row("a"))
    await database.change(lambda db: db.execute(_PUT, row("b")))
    async with database.read() as session:
        assert await session.scalar(_ALL) == await count(database) == 2


async def test_when_all_tasks_are_cancelled_the_connection_is_given_back_once_it_is_free(database: Database) -> None:
    """As at the end of an event loop, after Ctrl-C."""
    began, goes_on = threading.Event(), threading.Event()

    def work(db: Any) -> int:
        began.set()
        goes_on.wait(10)
        return int(db.execute(_ALL).scalar_one())

    before = asyncio.all_tasks()
    asking = asyncio.create_task(database.ask(work))
    await asyncio.to_thread(began.wait, 10)
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not asking.done()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await count(database) == 0


async def test_no_thread_of_its_own_keeps_the_process(database: Database) -> None:
    await count(database)
    assert [one for one in threading.enumerate() if "_connection_worker" in one.name and not one.daemon] == []


async def test_a_connection_that_was_stopped_says_so_instead_of_never_answering(database: Database) -> None:
    connection = await greenlet_spawn(database._open_sqlite)
    connection._connection.stop()
    async with asyncio.timeout(10):
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            await connection.run(lambda: None)


async def test_a_transaction_that_is_left_open_is_rolled_back_as_the_connection_is_given_back(
    database: Database,
) -> None:
    held = await database.engine.connect()
    connection: Any = (await held.get_raw_connection()).dbapi_connection
    await connection.run(lambda: connection._connection._conn.execute("BEGIN IMMEDIATE"))
    await held.close()
    assert not connection._connection.in_transaction
