"""A row that somebody holds locked, a purge, an import or a customer's open transaction: PostgreSQL alone locks rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from syncd.policy import DEFERRED, OK, SUCCEEDED, Verdict
from syncd.store import Connection, Database, Ended, Line, Move, Store
from syncd.tables import connections
from tests.conftest import Clock

AT_MOST_S = 5


@pytest_asyncio.fixture
async def store(postgres_url: str, clock: Clock) -> AsyncIterator[Store]:
    database = Database(postgres_url)
    yield Store(database, clock)
    await database.close()


async def claimed(store: Store, count: int) -> list[tuple[Connection, int]]:
    lines = [Line(workspace_id=f"w{number}", source="slack", credentials={}) for number in range(count)]
    await store.connections.put(lines, lambda *_: "s")
    cycle = await store.cycles.begin("slack", "cli", None)
    return await store.connections.claim_some("slack", "lease", cycle, due=None, most=count)


def ending(store: Store, clock: Clock, begun: list[tuple[Connection, int]]) -> list[asyncio.Task[bool]]:
    """The ends of these runs, in their order; of any three each sets other columns."""
    later = clock() + timedelta(minutes=15)
    ways: list[dict[str, Any]] = [
        {"verdict": Verdict(SUCCEEDED, OK, later, 0)},
        {"verdict": Verdict(SUCCEEDED, OK, later, 0), "regular": False},
        {"verdict": Verdict(DEFERRED, OK, later, 0)},
    ]
    return [
        asyncio.create_task(store.cycles.finish_run(run, one, "lease", Ended(**ways[number % 3])))
        for number, (one, run) in enumerate(begun)
    ]


def holding(connection_id: int) -> Any:
    return update(connections).where(connections.c.id == connection_id).values(account=connections.c.account)


async def waiting(db: AsyncConnection, count: int) -> None:
    """Wait until so many wait for a row."""
    others = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted"
    async with asyncio.timeout(AT_MOST_S):
        while (await db.execute(text(f"{others} AND datname = current_database()"))).scalar_one() < count:
            await db.rollback()  # what it sees of others' activity is of its transaction's begin


async def test_a_row_that_is_held_keeps_the_end_of_its_own_run_alone(store: Store, clock: Clock) -> None:
    begun = await claimed(store, 6)
    async with store.database.engine.connect() as other:
        await other.execute(holding(3))
        ends = ending(store, clock, begun)
        free = [end for (one, _), end in zip(begun, ends, strict=True) if one.id != 3]
        async with asyncio.timeout(AT_MOST_S):
            assert await asyncio.gather(*free) == [True] * 5
        assert sum(end.done() for end in ends) == 5
        await other.rollback()
    assert all(await asyncio.gather(*ends))


async def test_who_waits_too_long_for_a_row_loses_no_other_end(
    postgres_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.store.database._COMMAND_S", 1)
    database = Database(postgres_url)
    store = Store(database, clock)
    begun = await claimed(store, 4)
    async with database.engine.connect() as other:
        await other.execute(holding(1))
        answers = await asyncio.gather(*ending(store, clock, begun), return_exceptions=True)
        await other.rollback()
    await database.close()
    assert [one.id for (one, _), answer in zip(begun, answers, strict=True) if answer is not True] == [1]


async def test_who_changes_many_rows_in_whatever_order_is_no_deadlocks_victim(store: Store, clock: Clock) -> None:
    """An import has the third and wants the first, which those that end have, and who want the third."""
    begun = await claimed(store, 3)
    engine = store.database.engine
    async with engine.connect() as importing, engine.connect() as another, engine.connect() as watching:
        await another.execute(holding(2))
        await importing.execute(holding(3))
        ends = ending(store, clock, begun)
        await waiting(watching, 1)
        first = asyncio.create_task(importing.execute(holding(1)))
        await waiting(watching, 2)
        await another.rollback()  # the import has waited longer by now: a deadlock would be found by it
        await first
        await importing.commit()
    assert await asyncio.gather(*ends) == [True] * 3


async def test_an_end_by_itself_is_one_statement(store: Store, clock: Clock) -> None:
    (begun,) = await claimed(store, 1)
    asked: list[str] = []
    event.listen(store.database.engine.sync_engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    waits = [Move("messages", "", "1")]
    ended = Ended(verdict=Verdict(SUCCEEDED, OK, clock(), 0), waits=waits)
    assert await store.cycles.finish_run(begun[1], begun[0], "lease", ended)
    assert len(asked) == 1
