"""The pool's connections to PostgreSQL: one that the server closed is replaced, and not each use asks whether it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from syncd.store import Database, Store


@pytest.fixture
async def on_postgres(postgres_url: str) -> AsyncIterator[Store]:
    database = Database(postgres_url, pool_size=1)
    yield Store(database, lambda: datetime.now(UTC))
    await database.close()


async def test_a_connection_that_the_server_closed_is_replaced_before_it_is_used(
    on_postgres: Store, postgres_url: str
) -> None:
    async with on_postgres.database.engine.connect() as db:
        driver: Any = (await db.get_raw_connection()).driver_connection
    other = Database(postgres_url)
    async with other.write() as session:
        mine = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND "
        await session.execute(text(mine + "datname = current_database()"))
    await other.close()
    async with asyncio.timeout(5):
        while not driver.is_closed():
            await asyncio.sleep(0.001)
    assert await on_postgres.looks.cursors(1, "messages") == {}


async def test_the_server_is_asked_whether_it_lives_only_after_a_pause(
    on_postgres: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    dialect = on_postgres.database.engine.sync_engine.dialect
    monkeypatch.setattr(type(dialect), "do_ping", lambda self, connection: asked.append("") or True)
    await on_postgres.looks.cursors(1, "messages")
    await on_postgres.looks.cursors(1, "messages")
    assert asked == []
    monkeypatch.setattr("syncd.store.database._PING_AFTER_S", -1.0)
    await on_postgres.looks.cursors(1, "messages")
    assert asked == [""]
