"""Storing pages: lease, records, cursors, backlog and watches in one transaction."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sqlalchemy import bindparam, delete, select, update

from syncd.errors import LeaseLost
from syncd.store.checkpoint_postgresql import any_of, storing, values
from syncd.store.checkpoint_sqlite import attempts, rows_of, step_by_step
from syncd.store.counts import Counts
from syncd.store.database import clean
from syncd.store.merged import Merged, merged
from syncd.store.rows import document, row
from syncd.tables import OF_KIND, connections, cursors, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import Connection as Db
    from sqlalchemy import Row, Table

    from syncd.source import Page
    from syncd.store.checkpoint_postgresql import Shape
    from syncd.store.database import Database
    from syncd.store.merged import Key

T = TypeVar("T")
Rows = dict["Table", list[dict[str, Any]]]
BATCH = 500  # rows of one statement: well under both databases' limit of parameters
_LOOK_FIRST = 50  # of so many rows it is asked first which changed: more cost more to send in vain than to ask


class Move(NamedTuple):
    """Where a partition of a stream resumes."""

    stream: str
    partition: str
    cursor: str


# Made once: to make a statement costs more than to run it. Names that are no columns are of their conditions.
_OWN = (
    update(connections)
    .where(connections.c.id == bindparam("its"), connections.c.lease == bindparam("held"))
    .values(leased_until=bindparam("leased_until"))
    .returning(connections.c.id)
)
_COUNT = (
    update(runs)
    .where(runs.c.id == bindparam("its"))
    .values(
        records=runs.c.records + bindparam("rows"),
        added=runs.c.added + bindparam("new"),
        changed=runs.c.changed + bindparam("other"),
        deleted=runs.c.deleted + bindparam("gone"),
        calls=bindparam("asked"),
    )
)
_FORGET_ALL = delete(cursors).where(cursors.c.connection_id == bindparam("its"), cursors.c.stream == bindparam("of"))
_LIVE = {
    table: select(table.c.external_id, table.c.digest).where(
        table.c.connection_id == bindparam("its"),
        table.c.external_id == any_of("these"),
        table.c.deleted_at.is_(None),
    )
    for table in OF_KIND.values()
}


def placed(moves: Iterable[Move], now: datetime) -> list[dict[str, Any]]:
    """The columns of their cursors' rows, less whose they are; of several of one partition the last."""
    rows = [{"stream": one.stream, "partition": clean(one.partition), "cursor": clean(one.cursor)} for one in moves]
    return [{**row, "updated_at": now} for row in {(row["stream"], row["partition"]): row for row in rows}.values()]


class Pages:
    def __init__(self, database: Database, now: Callable[[], datetime], lease: timedelta) -> None:
        self._database = database
        self._now = now
        self._lease = lease

    async def checkpoint(
        self,
        pages: Sequence[tuple[str, Page]],
        *,
        connection_id: int,
        lease: str,
        run_id: int,
        records: int,
        calls: int,
    ) -> Counts:
        """Store ``pages``, each with its stream, in one transaction. Raises `LeaseLost` when the connection is no
        longer ours.

        They do what each alone would do, in their order: given that none pends, resolves, watches or unwatches what one
        before it has touched. ``records``: how many records the run counts since the last time; ``calls``: its calls so
        far.
        """
        page = merged(pages, self._now())
        its = {**self._fence(connection_id, lease), "run": run_id, "rows": records, "asked": calls}
        return await (self._stepwise(page, its) if self._database.is_sqlite else self._at_once(page, its))

    async def _stepwise(self, page: Merged, its: Mapping[str, Any]) -> Counts:
        connection_id, rows = its["its"], rows_of(page)

        def stored(db: Db) -> Counts:
            self._own(db, connection_id, its["held"])
            counts = step_by_step(db, connection_id, page, rows)
            did = {"new": counts.added, "other": counts.changed, "gone": counts.deleted}
            db.execute(_COUNT, {"its": its["run"], "rows": its["rows"], "asked": its["asked"], **did})
            return counts

        return await self._database.change(stored)

    async def _at_once(self, page: Merged, its: Mapping[str, Any]) -> Counts:
        made = {
            OF_KIND[kind]: [row(kind, name, records[name]) for name in sorted(records)]
            for kind, records in page.records.items()
        }
        rows, tried = await self._looked(page, its["its"], made)
        # What is written and deleted at once takes two statements: one changes a row once only.
        both = {
            kind: {one["external_id"]: None for one in rows.get(OF_KIND[kind], ()) if one["external_id"] in ids}
            for kind, ids in page.deletions.items()
        }
        if not any(both.values()):
            shape, given = values(page, rows, tried)
            return _told(shape, await self._database.at_once(storing(*shape), {**given, **its}))
        rest = {kind: dict.fromkeys(ids.keys() - both[kind].keys()) for kind, ids in page.deletions.items()}
        steps = [(*values(replace(page, deletions=rest), rows, tried), its)]
        steps.append((*values(Merged(page.now, deletions=both), {}, {}), {**its, "rows": 0}))

        def stored(db: Db) -> Counts:
            counts = Counts()
            for shape, given, whose in steps:
                counts += _told(shape, db.execute(storing(*shape), {**given, **whose}).one_or_none())
            return counts

        return await self._database.change(stored)

    async def _looked(self, page: Merged, connection_id: int, made: Rows) -> tuple[Rows, Mapping[Key, int]]:
        """The rows that may have to be written, and how often was tried what was tried again.

        Not in the transaction: with our lease nobody else writes these, and without it nothing is written.
        """
        many = [table for table, rows in made.items() if len(rows) >= _LOOK_FIRST]
        if not many and not page.tried:
            return made, {}

        def look(db: Db) -> tuple[Rows, Mapping[Key, int]]:
            rows = dict(made)
            for table in many:
                these = document([one["external_id"] for one in made[table]])
                held = dict(db.execute(_LIVE[table], {"its": connection_id, "these": these}).all())
                rows[table] = [one for one in made[table] if held.get(one["external_id"]) != one["digest"]]
            return {table: some for table, some in rows.items() if some}, attempts(db, connection_id, page.tried)

        return await self._database.ask(look)

    async def renew(self, connection_id: int, lease: str) -> None:
        """Keep the lease while no page comes. Raises `LeaseLost` when it is no longer ours."""
        if self._database.is_sqlite:
            await self._database.change(lambda db: self._own(db, connection_id, lease))
        elif await self._database.at_once(_OWN, self._fence(connection_id, lease)) is None:
            raise LeaseLost

    def _own(self, db: Db, connection_id: int, lease: str) -> None:
        """The fence: renew the lease in this transaction, or write nothing."""
        if db.execute(_OWN, self._fence(connection_id, lease)).one_or_none() is None:
            raise LeaseLost

    def _fence(self, connection_id: int, lease: str) -> dict[str, Any]:
        return {"its": connection_id, "held": lease, "leased_until": self._now() + self._lease}

    async def forget_cursors(self, connection_id: int, stream: str, lease: str) -> None:
        """Drop all cursors of the stream. Raises `LeaseLost` when the connection is no longer ours."""

        def forgotten(db: Db) -> None:
            self._own(db, connection_id, lease)
            db.execute(_FORGET_ALL, {"its": connection_id, "of": stream})

        await self._database.change(forgotten)


def _told(shape: Shape, row: Row[Any] | None) -> Counts:
    """What `storing` answered; it answers nothing where the lease is not ours."""
    if row is None:
        raise LeaseLost
    puts, gone, _ = shape
    numbers: list[int] = list(row)[1:]
    told, counts = iter(numbers), Counts()
    for table in puts:
        written, before = next(told), next(told)
        counts += Counts(added=written - before, changed=before).of(table.name)
    for table in gone:
        counts += Counts(deleted=next(told)).of(table.name)
    return counts


def batches(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[at : at + BATCH] for at in range(0, len(items), BATCH))
