"""The queue from which workers take: PgQueuer's tables, in a PostgreSQL schema of their own.

A job is one connection to be read in one cycle. The queue may give it twice, late or to two workers at once: who may
read is decided by the claim of the connection (`Connections.claim`), never here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import orjson
from sqlalchemy import Text, cast, column, delete, distinct, func, literal_column, select, table
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import ProgrammingError

from syncd.store.database import MIGRATION_LOCK, SchemaError
from syncd.store.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgqueuer.adapters.persistence.queries import Queries
    from sqlalchemy import TableClause

    from syncd.store.database import Database

_BATCH = 1000  # jobs that go into the queue with one statement
_LOG_KEPT = timedelta(days=1)  # PgQueuer logs three rows a job
_PRUNED, _PRUNES = 5000, 40  # rows in one statement, and statements at a time
_REPEATED_S = 60.0  # so long the count of repeated deliveries serves: it reads a day's log


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a job says. ``due``: connections whose turn had come by then; None: asked for, due or not."""

    cycle: int
    connection: int
    due: datetime | None
    sweep: bool

    def dumped(self) -> bytes:
        due = None if self.due is None else self.due.isoformat()
        return orjson.dumps({"cycle": self.cycle, "connection": self.connection, "due": due, "sweep": self.sweep})

    @classmethod
    def loaded(cls, payload: bytes | None) -> Self:
        """Raises ValueError or KeyError when it is none of ours. Members that a newer version adds are left alone."""
        said = orjson.loads(payload or b"")
        due = None if said["due"] is None else datetime.fromisoformat(said["due"])
        return cls(cycle=int(said["cycle"]), connection=int(said["connection"]), due=due, sweep=bool(said["sweep"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """The queue at a moment. ``queued``: jobs that wait for a worker, the first of them for ``oldest_s``; ``picked``:
    those that a worker has. ``repeated``: how often in the last day a job was given to a worker once more.
    """

    workers: int
    queued: int
    picked: int
    oldest_s: float | None
    repeated: int


def entrypoint(source: str) -> str:
    """PgQueuer's name for a source's jobs."""
    return f"sync_{source}"


class Jobs:
    """``schema``: where PgQueuer's tables are. ``heartbeat``: a worker that is silent for so long has lost its jobs."""

    def __init__(self, database: Database, schema: str, heartbeat: timedelta) -> None:
        self.heartbeat, self.schema = heartbeat, schema
        self._database = database
        self.driver = Driver(database)
        self._repeated: tuple[float, int] | None = None
        self._jobs = _table("pgqueuer", schema, "id", "status", "execute_after")
        self._log = _table("pgqueuer_log", schema, "id", "job_id", "status", "created")
        self._workers = _table("workers", schema, "id", "seen_at", "name", "runs")

    def queries(self, driver: Any = None) -> Queries:
        """PgQueuer's statements for our schema."""
        from pgqueuer.adapters.persistence import qb, queries
        from pgqueuer.domain.settings import DBSettings, Durability
        from pgqueuer.domain.types import Channel

        names = DBSettings(  # whatever the environment says of another PgQueuer
            prefix="",
            db_schema=self.schema,
            channel=Channel(self.channel),
            queue_table="pgqueuer",
            queue_table_log="pgqueuer_log",
            durability=Durability.balanced,  # its log may be lost with the server
        )
        return queries.Queries(
            driver or self.driver,
            qbe=qb.QueryBuilderEnvironment(names),
            qbq=qb.QueryQueueBuilder(names),
            qbs=qb.QuerySchedulerBuilder(names),
        )

    @property
    def channel(self) -> str:
        return f"ch_{self.schema}"

    # ── its tables ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def install(self) -> bool:
        """Create the tables or bring them up to date; answers whether they were made."""
        from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver

        async with self._database.engine.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            queries = self.queries(AsyncpgDriver(raw))
            await raw.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
            try:
                if made := not await queries.schema_is_installed():
                    await queries.install()
                else:
                    await queries.upgrade()
                await queries.optimize_autovacuum()
                for statement in _OURS:
                    await raw.execute(statement.format(schema=self.schema))
            finally:
                await raw.execute("SELECT pg_advisory_unlock($1)", MIGRATION_LOCK)
        return made

    async def check(self) -> None:
        """Raises `SchemaError` unless the tables are there, and as this PgQueuer wants them."""
        queries, where = self.queries(), f"schema {self.schema}"
        if not await queries.schema_is_installed() or not await queries.has_table("workers"):
            raise SchemaError(f"the queue has no tables in {where} yet: run `syncd migrate`")
        if (await queries.plan_upgrade()).statements:
            raise SchemaError(f"the queue's tables in {where} are of another version of PgQueuer: run `syncd migrate`")

    async def prune(self) -> None:
        """Drop what is older than a day of PgQueuer's log, and workers that were not seen since."""
        old = select(self._log.c.id).where(self._log.c.created < func.now() - _LOG_KEPT).limit(_PRUNED)
        for _ in range(_PRUNES):
            async with self._database.write() as session:
                gone = await session.execute(delete(self._log).where(self._log.c.id.in_(old)).returning(self._log.c.id))
                if len(gone.all()) < _PRUNED:
                    break
        async with self._database.write() as session:
            await session.execute(delete(self._workers).where(self._workers.c.seen_at < func.now() - _LOG_KEPT))

    # ── putting, and looking ────────────────────────────────────────────────────────────────────────────────────────

    async def put(self, source: str, orders: Sequence[Order], *, first: bool = False) -> int:
        """Put jobs into the queue, in this order; answers how many are new.

        A connection that waits in it or is being read is not put in twice. ``first``: before all others, and even so.
        """
        queries, new = self.queries(), 0
        for at in range(0, len(orders), _BATCH):
            batch = orders[at : at + _BATCH]
            keys = [f"asked:{one.cycle}:{one.connection}" if first else f"sync:{one.connection}" for one in batch]
            ids = await queries.enqueue(
                [entrypoint(source)] * len(batch),
                [one.dumped() for one in batch],
                [1 if first else 0] * len(batch),
                dedupe_key=[*keys],
                headers=[{"cycle": str(one.cycle)} for one in batch],
                on_conflict="skip",
            )
            new += sum(one is not None for one in ids)
        return new

    async def left(self, cycle_id: int) -> bool:
        """Whether jobs of a cycle wait or are being done."""
        mine = select(self._jobs.c.id).where(literal_column("headers ->> 'cycle'") == str(cycle_id)).limit(1)
        async with self._database.read() as session:
            return (await session.execute(mine)).one_or_none() is not None

    async def depth(self) -> Depth | None:
        """The queue now, by the database's clock; None while its tables are not there."""
        try:
            return await self._depth()
        except ProgrammingError:
            return None

    async def _depth(self) -> Depth:
        waits = cast(self._jobs.c.status, Text) == "queued"
        ripe = self._jobs.c.execute_after <= func.now()
        oldest = func.extract("epoch", func.now() - func.min(self._jobs.c.execute_after).filter(waits, ripe))
        counts = select(func.count().filter(waits), func.count().filter(~waits), oldest).select_from(self._jobs)
        lately = self._workers.c.seen_at > func.now() - self.heartbeat
        async with self._database.read() as session:
            queued, picked, waited = (await session.execute(counts)).one()
            workers = await session.execute(select(func.count()).select_from(self._workers).where(lately))
            seen = workers.scalar_one()
        oldest_s = None if waited is None else round(float(waited), 1)
        repeated = await self._repeated_lately()
        return Depth(workers=seen, queued=queued, picked=picked, oldest_s=oldest_s, repeated=repeated)

    async def _repeated_lately(self) -> int:
        if self._repeated is None or time.monotonic() - self._repeated[0] > _REPEATED_S:
            of = self._log.c
            picked = (cast(of.status, Text) == "picked", of.created > func.now() - timedelta(days=1))
            twice = select(func.count() - func.count(distinct(of.job_id))).where(*picked)
            async with self._database.read() as session:
                self._repeated = (time.monotonic(), int((await session.execute(twice)).scalar_one()))
        return self._repeated[1]

    # ── workers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def seen(self, worker: str, name: str, runs: int) -> None:
        """A worker lives. ``name``: of its machine and process; ``runs``: under way there."""
        row = {"id": worker, "name": name, "runs": runs, "seen_at": func.now()}
        put = postgresql.insert(self._workers).values(row)
        changed = {"seen_at": func.now(), "runs": runs}
        async with self._database.write() as session:
            await session.execute(put.on_conflict_do_update(index_elements=["id"], set_=changed))

    async def gone(self, worker: str) -> None:
        """A worker ended."""
        async with self._database.write() as session:
            await session.execute(delete(self._workers).where(self._workers.c.id == worker))


# beside PgQueuer's own, which it leaves alone
_OURS = (
    "CREATE INDEX IF NOT EXISTS syncd_jobs_of_cycle ON {schema}.pgqueuer ((headers ->> 'cycle'))",
    """CREATE TABLE IF NOT EXISTS {schema}.workers
        (id text PRIMARY KEY, name text NOT NULL, runs integer NOT NULL, seen_at timestamptz NOT NULL)""",
)


def _table(name: str, schema: str, *columns: str) -> TableClause:
    return table(name, *(column(one) for one in columns), schema=schema)
