"""Cycles and their runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import bindparam, delete, exists, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from syncd.policy import BACKFILL, DEFERRED, FAILED, INTERRUPTED, RUNNING, SUCCEEDED
from syncd.store import runs_postgresql, runs_sqlite
from syncd.store.batcher import Batcher
from syncd.store.clock import ahead, set_back, unowned
from syncd.store.connections import end_dead_runs
from syncd.store.database import Dumped, clean
from syncd.store.pages import placed
from syncd.store.rows import dumped
from syncd.store.told import Told, alike
from syncd.tables import connections, cycles, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import Connection as Db
    from sqlalchemy import Select

    from syncd.policy import Verdict
    from syncd.store.connections import Connection
    from syncd.store.database import Database
    from syncd.store.pages import Move


_GATHER_S = 0.01  # a run's end waits so long for others: where runs are short, one statement tells of several


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended, for `Cycles.finish_run`. ``error``/``hint``: words for a person, empty when all went well.

    ``records``: those that it read and no checkpoint told. ``regular``: False for a backfill, which says nothing of the
    connection's turns, nor of their success. ``limited_by``: the limit that the vendor's word, or our own count, was
    about. ``progress``: of the pass. ``passed``: the run brought a pass of several runs to its end, whatever came after
    that. ``waits``: the cursors that are stored with the end; ``cursors``: those that moved, by stream and partition,
    before and after.
    """

    verdict: Verdict
    error_kind: str | None = None
    error: str | None = None
    hint: str | None = None
    calls: int = 0
    records: int = 0
    swept: bool = False
    regular: bool = True
    limited_by: str | None = None
    progress: Mapping[str, Any] | None = None
    passed: bool = False
    waits: Sequence[Move] = ()
    cursors: Mapping[str, Sequence[str | None]] | None = None

    @property
    def cleared(self) -> bool:
        """Whether it ends what failed before, though it was deferred: such a connection never ends a run otherwise."""
        return self.passed and self.verdict.failures == 0


class _End(NamedTuple):
    run_id: int
    connection: Connection
    lease: str
    ended: Ended


_COUNTS = (
    *("total", "added", "changed", "deleted", "calls"),
    *("successful_workspaces", "failed_workspaces", "deferred_workspaces"),
)
# Made once; what is set is named when they are executed.
_SUMS = select(
    *(func.coalesce(func.sum(runs.c[name]), 0) for name in ("records", "added", "changed", "deleted", "calls")),
    *(
        func.coalesce(func.sum((runs.c.status == way).cast(cycles.c.total.type)), 0)
        for way in (SUCCEEDED, FAILED, DEFERRED)
    ),
).where(runs.c.cycle_id == bindparam("its"))
_OTHERS = select(runs.c.id).where(runs.c.cycle_id == bindparam("its"), runs.c.status == RUNNING).limit(1)
_OF_CYCLE = update(cycles).where(cycles.c.id == bindparam("its")).returning(cycles.c.started_at)
_FAILURES = (
    select(runs.c.connection_id, connections.c.workspace_id, runs.c.error_kind.label("kind"), runs.c.error, runs.c.hint)
    .join(connections, connections.c.id == runs.c.connection_id)
    .where(runs.c.cycle_id == bindparam("its"), runs.c.status == FAILED)
    .order_by(runs.c.id)
)


class Cycles:
    def __init__(self, database: Database, now: Callable[[], datetime], lease: timedelta) -> None:
        self._database = database
        self._now = now
        self._lease = lease
        self._batcher = Batcher(self._finished, _GATHER_S)

    async def begin(self, source: str, trigger: str, turn: datetime | None, *, held: Collection[int] = ()) -> int:
        """The cycle of this turn, made or joined (another daemon's cron fired for the same turn); answers its id.

        What a dead daemon left as running, runs and cycles, is told as interrupted; ``held``: the connections that run
        in this process. Where the clock was set back, what waits for a moment that it took back waits no longer, and a
        turn that comes again has a cycle of its own.
        """
        now = self._now()
        held = tuple(held)

        def begun(db: Db) -> int:
            set_back(db, source, now, ahead(now, self._lease))
            self._end_dead(db, source, turn, now, held)
            insert = (sqlite if self._database.is_sqlite else postgresql).insert(cycles)
            made = db.execute(
                insert.values(source=source, trigger=trigger, turn=turn, status=RUNNING, started_at=now)
                .on_conflict_do_nothing(index_elements=["source", "turn"])
                .returning(cycles.c.id)
            )
            cycle_id = made.scalar_one_or_none()
            if cycle_id is None:
                joined = select(cycles.c.id).where(cycles.c.source == source, cycles.c.turn == turn)
                cycle_id = db.execute(joined).scalar_one()
            return int(cycle_id)

        return await self._database.change(begun)

    def _end_dead(self, db: Db, source: str, turn: datetime | None, now: datetime, held: Collection[int]) -> None:
        """Tell the source's runs and cycles that nobody runs any more as interrupted; free a turn that comes again."""
        free = unowned(now, self._lease, held)
        dead_ones = select(connections.c.id).where(connections.c.source == source, free)
        db.execute(end_dead_runs(runs.c.connection_id.in_(dead_ones), now))
        alive = exists().where(runs.c.cycle_id == cycles.c.id, runs.c.status == RUNNING)
        dead = update(cycles).where(cycles.c.source == source, cycles.c.status == RUNNING, ~alive)
        if turn is not None:
            dead = dead.where(cycles.c.turn.is_distinct_from(turn))
            again = ~cycles.c.id.in_(_joined(source, turn))
            taken_back = update(cycles).where(cycles.c.source == source, cycles.c.turn == turn, again)
            db.execute(taken_back.values(turn=None))
        long_ago = or_(cycles.c.started_at < now - self._lease, cycles.c.started_at > ahead(now, self._lease))
        db.execute(dead.where(long_ago).values(status=INTERRUPTED, finished_at=now))

    async def has(self, source: str, turn: datetime, *, ended: bool = False) -> bool:
        """Whether some daemon has started the cycle of this turn; ``ended``: and whether it is over."""
        joined = _joined(source, turn)
        if ended:
            joined = joined.where(cycles.c.status != RUNNING)
        async with self._database.read() as session:
            return (await session.execute(joined)).one_or_none() is not None

    async def prune(self, source: str, history: timedelta, *, size: int = 500) -> int:
        """Drop up to about ``size`` rows of the source's cycles that began longer ago than ``history``, and of their
        runs, in one transaction; answers how many, 0 when there are no more.

        A cycle goes after its runs, one with a run under way not at all, nor the last one, nor the last turn's.
        """
        mine = cycles.c.source == source
        kept = [
            select(func.max(cycles.c.id)).where(mine, which).scalar_subquery()
            for which in (cycles.c.turn.is_not(None), cycles.c.trigger != BACKFILL)
        ]
        alive = exists().where(runs.c.cycle_id == cycles.c.id, runs.c.status == RUNNING)
        old = select(cycles.c.id).where(
            mine,
            cycles.c.started_at < self._now() - history,
            cycles.c.status != RUNNING,
            ~alive,
            *(cycles.c.id != func.coalesce(last, 0) for last in kept),
        )
        async with self._database.write() as session:
            ids = (await session.execute(old.order_by(cycles.c.id).limit(size))).scalars().all()
            of_them = select(runs.c.id).where(runs.c.cycle_id.in_(ids)).order_by(runs.c.cycle_id).limit(size)
            gone = await session.execute(delete(runs).where(runs.c.id.in_(of_them)).returning(runs.c.id))
            left = exists().where(runs.c.cycle_id == cycles.c.id)
            empty = delete(cycles).where(cycles.c.id.in_(ids), ~left).returning(cycles.c.id)
            return len(gone.all()) + len((await session.execute(empty)).all())

    async def finish_run(self, run_id: int, connection: Connection, lease: str, ended: Ended) -> bool:
        """Store a run's end and free the lease, in one transaction; False when the lease is no longer ours.

        Then only the run's row is written, as interrupted: the connection belongs to somebody else. Runs that end at
        the same moment are stored together.
        """
        return await self._batcher.ask(_End(run_id, connection, lease, ended))

    async def _finished(self, ends: Sequence[_End]) -> Sequence[bool]:
        now = self._now()
        some = alike(self._told(end, now) for end in ends)
        # Several do not wait for the row of one that somebody holds: refused, each is asked for by itself.
        in_one = partial(runs_postgresql.end, patient=len(ends) == 1)
        stored = runs_sqlite.end if self._database.is_sqlite else in_one

        def finished(db: Db) -> set[int]:
            return {run for told in some for run in stored(db, told)}

        one = len(some) == 1 and not self._database.is_sqlite  # then it is a transaction by itself
        mine = await (self._database.ask(finished) if one else self._database.change(finished))
        return [end.run_id in mine for end in ends]

    def _told(self, end: _End, now: datetime) -> Told:
        ended, connection = end.ended, end.connection
        of_run = {
            "status": ended.verdict.run_status,
            "finished_at": now,
            "calls": ended.calls,
            "records": ended.records,
            "error_kind": ended.error_kind,
            "error": None if ended.error is None else clean(ended.error),
            "hint": None if ended.hint is None else clean(ended.hint),
            "cursors": ended.cursors and Dumped(dumped(ended.cursors).decode()),
        }
        of_connection = self._of_connection(connection, ended, now)
        return Told(connection.id, end.lease, end.run_id, of_connection, of_run, placed(ended.waits, now))

    def _of_connection(self, connection: Connection, ended: Ended, now: datetime) -> dict[str, Any]:
        """What a run's end says of its connection."""
        verdict = ended.verdict
        waits = verdict.connection_status != connection.status  # for a person
        values: dict[str, Any] = {
            "lease": None,
            "leased_until": None,
            "status": verdict.connection_status,
            "limited_until": verdict.limited_until,
            "limited_by": ended.limited_by if verdict.limited_until else None,
            "updated_at": now,
        }
        failing = (connection.failures > 0, verdict.failures > 0)
        if waits or (ended.regular and failing[0] != failing[1]):
            values["status_since"] = now
        if ended.regular:
            values |= {"failures": verdict.failures, "next_sync_at": verdict.next_sync_at}
            if ended.progress != connection.progress:
                values["progress"] = ended.progress
        if verdict.run_status == SUCCEEDED and ended.regular:
            values |= {"last_success_at": now, "last_error": None, "last_error_kind": None, "last_error_at": None}
            values |= {"last_sweep_at": now} if ended.swept else {}
        elif verdict.run_status == DEFERRED and ended.passed:
            values["last_success_at"] = now
            if ended.cleared:
                values |= {"last_error": None, "last_error_kind": None, "last_error_at": None}
        elif verdict.run_status == FAILED and (ended.regular or waits):
            words = f"{ended.error} - {ended.hint}" if ended.hint else ended.error
            values |= {
                "last_error": None if words is None else clean(words),
                "last_error_kind": ended.error_kind,
                "last_error_at": now,
            }
        return values

    async def finish(self, cycle_id: int, *, status: str, over: bool = True) -> dict[str, Any]:
        """Sum the cycle's runs into its row; answers the status object's parts, ``failures`` among them.

        ``over``: False where others go on with it, and will end it.
        """
        its = {"its": cycle_id}

        def finished(db: Db) -> dict[str, Any]:
            row = db.execute(_SUMS, its).one()
            values: dict[str, Any] = {name: int(value) for name, value in zip(_COUNTS, row, strict=True)}
            at = self._now()
            # Another daemon that joined this cycle may still run: then it is the one to end it.
            alone = over and db.execute(_OTHERS, its).one_or_none() is None
            ending = {"status": status, "finished_at": at} if alone else {}
            cycle = db.execute(_OF_CYCLE, {**its, **ending, **values}).one()
            failures = [
                {
                    "connection_id": one.connection_id,
                    "workspace_id": one.workspace_id,
                    "kind": one.kind,
                    "error": one.error,
                    "hint": one.hint or "",
                }
                for one in db.execute(_FAILURES, its)
            ]
            told = {"failures": failures, "status": status, "started_at": cycle.started_at, "finished_at": at}
            return values | told

        return await self._database.change(finished)


def _joined(source: str, turn: datetime) -> Select[tuple[int]]:
    """The cycle that this turn joins: its own, unless a later turn's came after that.

    Then the clock was set back and the turn comes again; its old cycle must not be joined, in it all were run.
    """
    last = select(func.max(cycles.c.id)).where(cycles.c.source == source, cycles.c.turn.is_not(None))
    return select(cycles.c.id).where(cycles.c.id == last.scalar_subquery(), cycles.c.turn == turn)
