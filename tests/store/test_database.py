"""Engines, transactions, migrations."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from syncd.store import Database, SchemaError
from syncd.store.database import head
from syncd.tables import metadata


async def test_the_migrations_make_exactly_the_tables_that_the_store_uses(database_url: str) -> None:
    database = Database(database_url)
    async with database.engine.connect() as connection:
        found = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts={"compare_type": True}), metadata)
        )
    await database.close()
    assert found == []


async def test_migrating_twice_changes_nothing(database_url: str) -> None:
    database = Database(database_url)
    assert await database.migrate() == (head(), head())
    await database.close()


async def test_a_newer_schema_is_refused(database_url: str) -> None:
    database = Database(database_url)
    async with database.write() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaError, match="upgrade syncd"):
        await database.migrate()
    with pytest.raises(SchemaError, match="upgrade syncd"):
        await database.check_schema()
    await database.close()


async def test_a_database_without_a_schema_says_what_to_do(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/new.db")
    with pytest.raises(SchemaError, match="syncd migrate"):
        await database.check_schema()
    await database.close()


async def test_daemons_that_migrate_at_once_do_not_meet(postgres: str) -> None:
    from tests.conftest import _on_server

    await _on_server(postgres, "CREATE DATABASE syncd_at_once")
    databases = [Database(postgres.format("syncd_at_once")) for _ in range(4)]
    assert {now for _, now in await asyncio.gather(*(database.migrate() for database in databases))} == {head()}
    for database in databases:
        await database.close()
    await _on_server(postgres, "DROP DATABASE syncd_at_once")


async def test_a_failed_migration_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import op

    database = Database(f"sqlite+aiosqlite:///{tmp_path}/new.db")
    with monkeypatch.context() as patch:
        patch.setattr(op, "execute", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await database.migrate()
    async with database.read() as session:
        assert (await session.execute(text("SELECT name FROM sqlite_master"))).all() == []
    await database.migrate()
    await database.close()


async def test_many_writers_at_once_all_get_through(database_url: str) -> None:
    """Several processes read and then write: on SQLite they fail "database is locked" without BEGIN IMMEDIATE.

    Each has a `Database` of its own, as a process has: within one the writer's lock already orders them.
    """
    databases = [Database(database_url) for _ in range(10)]

    async def write(at: int) -> None:
        database = databases[at]
        for step in range(5):
            async with database.write() as session:
                await session.execute(text("SELECT COUNT(*) FROM cursors"))
                await session.execute(
                    text(
                        "INSERT INTO cursors (connection_id, stream, partition, cursor, updated_at) "
                        "VALUES (:at, 's', :step, 'c', CURRENT_TIMESTAMP)"
                    ),
                    {"at": at, "step": str(step)},
                )

    await asyncio.gather(*(write(at) for at in range(10)))
    async with databases[0].read() as session:
        assert (await session.execute(text("SELECT COUNT(*) FROM cursors"))).scalar_one() == 50
    for database in databases:
        await database.close()
