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

OF_TESTS = {"SYNCD_TEST_DATABASE_URL", "SYNCD_MONTHS", "SYNCD_CHAOS", "SYNCD_CHAOS_SEED", "SYNCD_FAULTS"}
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


async def _on_server(postgres: str, statement: str) -> None:
    url = make_url(postgres.format("postgres"))
    db = await asyncpg.connect(
        host=url.host, port=url.port, user=url.username, password=url.password, database="postgres"
    )
    try:
        await db.execute(statement)
    finally:
        await db.close()


@pytest_asyncio.fixture(scope="session")
async def _template(postgres: str) -> str:
    """A migrated database to copy: faster than migrating anew for each test."""
    name = f"syncd_template_{uuid.uuid4().hex[:8]}"
    await _on_server(postgres, f"CREATE DATABASE {name}")
    database = Database(postgres.format(name))
    await database.migrate()
    await database.close()
    return name


@pytest_asyncio.fixture
async def postgres_url(postgres: str, _template: str) -> AsyncIterator[str]:
    """A migrated PostgreSQL database of this test alone."""
    name = f"syncd_{uuid.uuid4().hex[:12]}"
    await _on_server(postgres, f"CREATE DATABASE {name} TEMPLATE {_template}")
    yield postgres.format(name)
    await _on_server(postgres, f"DROP DATABASE {name} WITH (FORCE)")


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
