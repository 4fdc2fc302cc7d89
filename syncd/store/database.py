"""One code path to SQLite and PostgreSQL: engine, sessions, migrations."""

from __future__ import annotations

import asyncio
import importlib.resources
import sqlite3
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiosqlite
import orjson
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InvalidatePoolError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import await_, greenlet_spawn

from syncd.store.sqlite_thread import InThread, in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from sqlalchemy import Connection as SyncConnection
    from sqlalchemy import Engine, Executable, Row
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.pool import ConnectionPoolEntry

T = TypeVar("T")

_CLOSE_S = 5
_PING_AFTER_S = 1.0
_COMMAND_S = 60  # a statement that takes longer than this has lost its server
_IDLE_S = 30  # PostgreSQL ends who stays silent in mid-transaction: a frozen or cut-off process must not hold its locks
MIGRATION_LOCK = 0x73796E6364  # "syncd": PostgreSQL's advisory lock for daemons that migrate at the same moment


class SchemaError(Exception):
    """The schema is missing, older or newer than this program; ``str()`` is one line with the way out."""


class Dumped(str):
    """JSON that is text already: stored as it is, not dumped once more."""

    __slots__ = ()


def clean(text: str) -> str:
    """``text`` without what PostgreSQL refuses: NUL, lone surrogates."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _dumps(value: Any) -> str:
    return value if isinstance(value, Dumped) else orjson.dumps(value).decode()


class Database:
    """The engine and its sessions. Each coroutine takes a session of its own, for as long as one transaction.

    ``url``: ``sqlite+aiosqlite:///FILE`` or ``postgresql+asyncpg://…``. ``pool_size``: database connections in all.
    """

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {
            "json_serializer": _dumps,
            "json_deserializer": orjson.loads,
            "hide_parameters": True,
        }
        if self.is_sqlite:
            options |= {"creator": self._open_sqlite, "pool_size": pool_size}
        else:
            options |= {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": 30}
            options["connect_args"] = {
                "timeout": 10,
                "command_timeout": _COMMAND_S,
                "server_settings": {
                    "application_name": "syncd",
                    "idle_in_transaction_session_timeout": f"{_IDLE_S}s",
                },
            }
        self.engine = create_async_engine(self.url, **options)
        if self.is_sqlite:
            event.listen(self.engine.sync_engine, "connect", _sqlite_connected)
            event.listen(self.engine.sync_engine, "begin", _sqlite_begun)
        else:
            event.listen(self.engine.sync_engine, "checkin", _given_back)
            event.listen(self.engine.sync_engine, "checkout", _PingIdle(self.engine.sync_engine))
        writing = self.engine.execution_options(syncd_writes=True)
        self._in_one = in_thread if self.is_sqlite else _in_one
        self._reads = async_sessionmaker(self.engine, expire_on_commit=False)
        self._writes = async_sessionmaker(writing, expire_on_commit=False)
        # PostgreSQL's statements each see what is committed, in a transaction or not: without one, two answers less.
        reading = self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._asking, self._writing = reading.sync_engine, writing.sync_engine
        # SQLite has one writer: waiting here is fair, waiting in its busy loop is not.
        self._writer = asyncio.Lock()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for reading, in one transaction."""
        async with self._reads.begin() as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A session whose transaction is committed at the end, rolled back on an exception."""
        if self.is_sqlite:
            async with self._writer, self._writes.begin() as session:
                yield session
        else:
            async with self._writes.begin() as session:
                yield session

    # What each run needs goes this way: no session, and one switch to SQLAlchemy for a transaction instead of one for
    # each statement. ``work`` is not a coroutine; its statements wait all the same.

    async def ask(self, work: Callable[[SyncConnection], T]) -> T:
        """What ``work`` answers, which only reads."""
        return await greenlet_spawn(self._in_one, self._asking, work)

    async def at_once(self, statement: Executable, values: Mapping[str, Any]) -> Row[Any] | None:
        """The one row, or none, that ``statement`` answers; on PostgreSQL it is a transaction by itself."""
        return await self.ask(lambda db: db.execute(statement, values).one_or_none())

    async def change(self, work: Callable[[SyncConnection], T]) -> T:
        """What ``work`` answers, in one transaction: committed at its end, rolled back on an exception."""
        if self.is_sqlite:
            async with self._writer:
                return await greenlet_spawn(self._in_one, self._writing, work)
        return await greenlet_spawn(self._in_one, self._writing, work)

    def _open_sqlite(self) -> InThread:
        file = str(self.url.database)
        # What cannot be opened fails here: aiosqlite would leave a thread behind that outlives the event loop.
        sqlite3.connect(file).close()
        connection = aiosqlite.connect(file, isolation_level=None, timeout=10)
        # Who is cut while it opens or closes leaves its thread behind, and the process would wait for that for ever.
        connection._thread.daemon = True
        return InThread(self.engine.dialect.dbapi, await_(connection))

    async def forget_journal(self) -> None:
        """Empty SQLite's write-ahead log, where what was erased can still be read, unless another process reads now."""
        if self.is_sqlite:
            async with self._writer, self.engine.connect() as connection:
                raw = (await connection.get_raw_connection()).driver_connection
                assert raw is not None  # noqa: S101 - it is connected
                await raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def pool(self) -> tuple[int, int]:
        """Database connections: at most, and in use."""
        pool = self.engine.pool
        assert isinstance(pool, QueuePool)  # noqa: S101 - both databases have it
        return pool.size(), pool.checkedout()

    async def ping(self) -> None:
        """Raises what the database raises when it does not answer."""
        async with self.read() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Give the connections back; a server that does not answer is not waited for."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.engine.dispose()
        except TimeoutError:
            await self.engine.dispose(close=False)

    async def migrate(self) -> tuple[str | None, str]:
        """Create or upgrade the schema; answers (revision before, revision now). Raises `SchemaError` if newer."""
        async with self.engine.execution_options(syncd_writes=True).begin() as connection:
            if not self.is_sqlite:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            before = await self._revision(connection)
            script = _script()
            if before is not None and before not in {revision.revision for revision in script.walk_revisions()}:
                raise SchemaError(f"the database has schema {before}, newer than this syncd knows: upgrade syncd")
            await connection.run_sync(_upgrade)
            return before, head()

    async def check_schema(self) -> None:
        """Raises `SchemaError` unless the schema is exactly the one this program writes."""
        async with self.engine.connect() as connection:
            found = await self._revision(connection)
        latest = head()
        if found is None:
            raise SchemaError("the database has no syncd schema yet: run `syncd migrate` (or `syncd serve --migrate`)")
        if found != latest:
            known = found in {revision.revision for revision in _script().walk_revisions()}
            way_out = "run `syncd migrate`" if known else "upgrade syncd"
            raise SchemaError(f"the database has schema {found}, this syncd writes {latest}: {way_out}")

    async def _revision(self, connection: AsyncConnection) -> str | None:
        return await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())


def _in_one(engine: Engine, work: Callable[[SyncConnection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


def _given_back(connection: object, record: ConnectionPoolEntry) -> None:
    record.info["idle_since_s"] = time.monotonic()


class _PingIdle:
    """Looks whether a connection of the pool still lives before it is used.

    SQLAlchemy's own ``pool_pre_ping`` asks the server each time, three questions for a transaction that has as many.
    What the server closed is known without asking; what broke off without a word is asked when it was idle.
    """

    def __init__(self, engine: Engine) -> None:
        self._dialect = engine.dialect

    def __call__(self, connection: Any, record: ConnectionPoolEntry, proxy: object) -> None:
        if connection.driver_connection.is_closed():
            raise InvalidatePoolError
        if time.monotonic() - record.info.get("idle_since_s", time.monotonic()) > _PING_AFTER_S:
            try:
                self._dialect.do_ping(connection)
            except Exception as error:
                raise InvalidatePoolError from error


def _sqlite_connected(connection: sqlite3.Connection, record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begun(connection: SyncConnection) -> None:
    # A transaction that reads first and writes then would fail "database is locked" beside another such one.
    writes = connection.get_execution_options().get("syncd_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _config() -> Config:
    packaged = Path(str(importlib.resources.files("syncd") / "_migrations"))
    checkout = Path(__file__).resolve().parents[2] / "migrations"
    config = Config()
    config.set_main_option("script_location", str(packaged if packaged.is_dir() else checkout).replace("%", "%%"))
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def head() -> str:
    """The revision of the schema that this program writes."""
    found = _script().get_current_head()
    assert found is not None  # noqa: S101 - the migrations are shipped with the program
    return found


def _upgrade(connection: SyncConnection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def is_outage(error: Exception) -> bool:
    """Whether the database is away, locked or full. False where it refuses what it was given, and for other errors.

    PostgreSQL's classes of data, integrity and syntax errors are 22, 23 and 42; an argument that asyncpg cannot encode
    is a ValueError.
    """
    if isinstance(error, DataError | IntegrityError | ProgrammingError):
        return False
    if isinstance(error, DBAPIError):
        refused = str(getattr(error.orig, "sqlstate", None) or "")[:2] in {"22", "23", "42"}
        return not refused and not isinstance(getattr(error.orig, "__cause__", None), ValueError)
    return isinstance(error, OSError | PoolTimeout)


def database_words(error: Exception) -> str:
    """Why the database failed, in a few words without parameters or passwords."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    words = str(original).strip().splitlines()
    return (words[0] if words else type(original).__name__)[:200]
