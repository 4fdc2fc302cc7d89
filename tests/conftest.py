"""Shared by all tests: both databases, a running sandbox, and a clean environment."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.engine import make_url

from syncd.store import Database, Store
from tests.postgres import Postgres

if TYPE_CHECKING:
    from syncd.sandbox.app import Sandbox
    from syncd.sandbox.world import Options, World
    from tests.serving import Site

pytest_plugins = ["tests.once", "tests.leaks"]

OF_TESTS = {
    "SYNCD_TEST_DATABASE_URL",
    "SYNCD_KIND",
    "SYNCD_MONTHS",
    "SYNCD_CHAOS",
    "SYNCD_CHAOS_SEED",
    "SYNCD_SOAK_MINUTES",
    "SYNCD_FAULTS",
    "SYNCD_PICTURES",
}
if os.environ.keys() & {"SYNCD_MONTHS", "SYNCD_CHAOS", "SYNCD_FAULTS"}:
    os.environ.setdefault("PYTEST_TIMEOUT", "0")  # the long forms take hours
for name in [name for name in os.environ if name.startswith("SYNCD_") and name not in OF_TESTS]:
    del os.environ[name]


class Clock:
    """The process's clock in tests: stands still until it is moved."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def advance(self, **by: float) -> None:
        self.at += timedelta(**by)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a server on which databases may be made, with ``{}`` for the database's name."""
    given = os.environ.get("SYNCD_TEST_DATABASE_URL")
    if given:
        yield make_url(given).set(database="NAME").render_as_string(hide_password=False).replace("NAME", "{}")
        return
    with Postgres() as server:
        yield server.url("{}")


async def _connect(url: str) -> asyncpg.Connection:
    at = make_url(url)
    return await asyncpg.connect(
        host=at.host, port=at.port, user=at.username, password=at.password, database=at.database
    )


async def _on_server(postgres: str, statement: str) -> None:
    db = await _connect(postgres.format("postgres"))
    try:
        await db.execute(statement)
    finally:
        await db.close()


class Databases:
    """Migrated databases on the server: each is one test's alone, then emptied for the next.

    Emptying takes some milliseconds, a new copy of the template a hundred and more.
    """

    def __init__(self, postgres: str, template: str) -> None:
        self._postgres, self._template = postgres, template
        self._free: list[str] = []
        self._tables: list[str] = []
        self._emptying = self._shape = ""

    async def start(self) -> None:
        await _on_server(self._postgres, f"CREATE DATABASE {self._template}")
        database = Database(self._postgres.format(self._template))
        await database.migrate()
        await database.close()
        db = await _connect(self._postgres.format(self._template))
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        sequences = "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'"
        self._tables = [row[0] for row in await db.fetch(tables)]
        steps = [f"DELETE FROM {table}" for table in self._tables]
        steps += [f"ALTER SEQUENCE {row[0]} RESTART" for row in await db.fetch(sequences)]
        self._emptying, self._shape = ";".join(steps), await self._shape_of(db)
        await db.close()

    async def take(self) -> str:
        if self._free:
            return self._free.pop()
        name = f"syncd_{uuid.uuid4().hex[:12]}"
        await _on_server(self._postgres, f"CREATE DATABASE {name} TEMPLATE {self._template}")
        return name

    async def give_back(self, name: str) -> None:
        """Looked through for secrets and emptied; one whose schema a test has changed goes."""
        from tests.leaks import watch  # pytest imports it first, as a plugin

        db = await _connect(self._postgres.format(name))
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        await db.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        whole = await self._shape_of(db) == self._shape
        if whole:
            await watch.look_into_database(db, self._tables)
            await db.execute(self._emptying)
            self._free.append(name)
        await db.close()
        if not whole:
            await _on_server(self._postgres, f"DROP DATABASE {name} WITH (FORCE)")

    async def _shape_of(self, db: asyncpg.Connection) -> str:
        return str(
            await db.fetchval("""
                SELECT md5(string_agg(concat_ws(' ', relname, relkind, attname, atttypid, version_num), ',' ORDER BY relname, attname))
                FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid LEFT JOIN alembic_version ON true
                WHERE relnamespace = 'public'::regnamespace AND NOT attisdropped
            """)
        )


@pytest_asyncio.fixture(scope="session")
async def _databases(postgres: str) -> Databases:
    databases = Databases(postgres, f"syncd_template_{uuid.uuid4().hex[:8]}")
    await databases.start()
    return databases


@pytest_asyncio.fixture
async def postgres_url(postgres: str, _databases: Databases) -> AsyncIterator[str]:
    """A migrated PostgreSQL database of this test alone."""
    name = await _databases.take()
    yield postgres.format(name)
    await _databases.give_back(name)


@pytest_asyncio.fixture(scope="session")
async def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file to copy."""
    file = tmp_path_factory.mktemp("empty") / "syncd.db"
    database = Database(f"sqlite+aiosqlite:///{file}")
    await database.migrate()
    await database.close()
    return file


@pytest.fixture
def sqlite_url(tmp_path: Path, empty_sqlite: Path) -> str:
    """A migrated SQLite file of this test alone."""
    shutil.copy(empty_sqlite, tmp_path / "syncd.db")
    return f"sqlite+aiosqlite:///{tmp_path}/syncd.db"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of this test alone; the test runs once on each."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def store(database_url: str, clock: Clock) -> AsyncIterator[Store]:
    database = Database(database_url)
    yield Store(database, clock)
    await database.close()


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Callable[..., Awaitable[Sandbox]]]:
    """``await sandbox(Options(…))``: running sandboxes, closed at the end.

    Their clock stands still: nothing ripens by itself between one run and the next.
    """
    from syncd.sandbox.app import Sandbox
    from syncd.sandbox.world import StandingClock, World

    async with AsyncExitStack() as stack:

        async def start(options: Options, world: World | None = None) -> Sandbox:
            world = world or World(options, StandingClock())
            return await stack.enter_async_context(Sandbox(options, world=world))

        yield start


@pytest_asyncio.fixture
async def bare(sqlite_url: str) -> AsyncIterator[Site]:
    """The daemon's HTTP on loopback, without a password."""
    from tests.serving import site

    async with site(sqlite_url) as one:
        yield one


@pytest_asyncio.fixture
async def both(database_url: str) -> AsyncIterator[Site]:
    """The same on each database."""
    from tests.serving import site

    async with site(database_url) as one:
        yield one


@pytest_asyncio.fixture
async def locked(sqlite_url: str) -> AsyncIterator[Site]:
    """With a token, open to other machines."""
    from tests.serving import TOKEN, site

    async with site(sqlite_url, host="0.0.0.0", token=TOKEN) as one:
        one.client.base_url = one.base.replace("0.0.0.0", "127.0.0.1")
        yield one
