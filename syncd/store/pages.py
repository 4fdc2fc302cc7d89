"""Storing a page: lease, records, cursor, backlog and watches in one transaction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import orjson
from sqlalchemy import bindparam, case, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from syncd.errors import LeaseLost
from syncd.policy import backlog_gap
from syncd.store.database import Dumped, clean
from syncd.tables import OF_KIND, backlog, connections, cursors, runs, watches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import BindParameter, Table
    from sqlalchemy import Connection as Db

    from syncd.records import Deletion, Kind, Record
    from syncd.source import Page, Pending
    from syncd.store.database import Database

T = TypeVar("T")
BATCH = 500  # rows of one statement: well under both databases' limit of parameters


@dataclass(slots=True)
class Counts:
    """What a page did: rows really written. ``kinds``: the same by (table, change), of what changed."""

    added: int = 0
    changed: int = 0
    deleted: int = 0
    kinds: dict[tuple[str, str], int] = field(default_factory=dict, compare=False, repr=False)

    def __iadd__(self, other: Counts) -> Self:
        self.added += other.added
        self.changed += other.changed
        self.deleted += other.deleted
        for kind, rows in other.kinds.items():
            self.kinds[kind] = self.kinds.get(kind, 0) + rows
        return self

    def of(self, table: str) -> Self:
        """The same, and all of it is that table's."""
        told = (("added", self.added), ("changed", self.changed), ("deleted", self.deleted))
        self.kinds = {(table, change): rows for change, rows in told if rows}
        return self


class Move(NamedTuple):
    """Where a partition of a stream resumes."""

    stream: str
    partition: str
    cursor: str


# Made once: to make a statement costs more than to run it. Names that are no columns are of their conditions.
_THESE: BindParameter[Any] = bindparam("these", expanding=True)
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


def _of_stream(table: Table) -> Any:
    return delete(table).where(table.c.connection_id == bindparam("its"), table.c.stream == bindparam("of"))


_FORGET_ALL = _of_stream(cursors)
_FORGET = _FORGET_ALL.where(cursors.c.partition.in_(_THESE))
_DROP = {table: _of_stream(table).where(table.c.external_id.in_(_THESE)) for table in (backlog, watches)}


def _put_cursor(dialect: Any) -> Any:
    insert = dialect.insert(cursors)
    return insert.on_conflict_do_update(
        index_elements=["connection_id", "stream", "partition"],
        set_={"cursor": insert.excluded.cursor, "updated_at": insert.excluded.updated_at},
    )


_PUT_CURSOR = {dialect.dialect.name: _put_cursor(dialect) for dialect in (sqlite, postgresql)}


def placed(move: Move, now: datetime) -> dict[str, Any]:
    """The columns of its cursor's row, less whose it is."""
    where = {"stream": move.stream, "partition": clean(move.partition), "cursor": clean(move.cursor)}
    return {**where, "updated_at": now}


def put_cursors(db: Db, connection_id: int, moves: Sequence[Move], now: datetime) -> None:
    """Store where they resume, the last of several of one partition; in a transaction that has seen to the lease."""
    rows = {(move.stream, move.partition): {"connection_id": connection_id, **placed(move, now)} for move in moves}
    if rows:
        db.execute(_PUT_CURSOR[db.dialect.name], list(rows.values()))


class Pages:
    def __init__(self, database: Database, now: Callable[[], datetime], lease: timedelta) -> None:
        self._database = database
        self._now = now
        self._lease = lease
        self._dialect = sqlite if database.is_sqlite else postgresql

    async def checkpoint(
        self,
        page: Page,
        *,
        connection_id: int,
        stream: str,
        lease: str,
        run_id: int,
        records: int,
        calls: int,
        earlier: Move | None = None,
    ) -> Counts:
        """Store ``page`` of ``stream`` in one transaction. Raises `LeaseLost` when the connection is no longer ours.

        ``records``: how many of the page's records the run counts; ``calls``: the run's calls so far. ``earlier``: what
        a page before this one left to be stored with it.
        """
        now = self._now()
        prepared = [
            (OF_KIND[kind], _rows(kind, [one for one in page.records if type(one) is kind]))
            for kind in OF_KIND
            if any(type(one) is kind for one in page.records)
        ]  # outside of the transaction: it holds SQLite's only writer

        def stored(db: Db) -> Counts:
            self._own(db, connection_id, lease)
            counts = Counts()
            for table, rows in prepared:
                counts += self._upsert(db, table, connection_id, rows, now).of(table.name)
            counts += self._delete(db, connection_id, page.deletions, now)
            if page.forget:
                db.execute(_FORGET, {"its": connection_id, "of": stream, "these": list(page.forget)})
            here = None if page.cursor is None else Move(stream, page.partition, page.cursor)
            put_cursors(db, connection_id, [one for one in (earlier, here) if one], now)
            self._backlog(db, connection_id, stream, page, now)
            self._watches(db, connection_id, stream, page, now)
            did = {"rows": records, "new": counts.added, "other": counts.changed, "gone": counts.deleted}
            db.execute(_COUNT, {"its": run_id, **did, "asked": calls})
            return counts

        return await self._database.change(stored)

    async def renew(self, connection_id: int, lease: str) -> None:
        """Keep the lease while no page comes. Raises `LeaseLost` when it is no longer ours."""
        await self._database.change(lambda db: self._own(db, connection_id, lease))

    def _own(self, db: Db, connection_id: int, lease: str) -> None:
        """The fence: renew the lease in this transaction, or write nothing."""
        renewed = db.execute(_OWN, {"its": connection_id, "held": lease, "leased_until": self._now() + self._lease})
        if renewed.one_or_none() is None:
            raise LeaseLost

    async def forget_cursors(self, connection_id: int, stream: str, lease: str) -> None:
        """Drop all cursors of the stream. Raises `LeaseLost` when the connection is no longer ours."""

        def forgotten(db: Db) -> None:
            self._own(db, connection_id, lease)
            db.execute(_FORGET_ALL, {"its": connection_id, "of": stream})

        await self._database.change(forgotten)

    def _upsert(self, db: Db, table: Table, connection_id: int, rows: list[dict[str, Any]], now: datetime) -> Counts:
        """Write only what is new, changed or back again: an unchanged row costs no write, not even a lock."""
        counts = Counts()
        for batch in batches(rows):
            query = select(table.c.external_id, table.c.digest, table.c.deleted_at).where(
                table.c.connection_id == connection_id,
                table.c.external_id.in_([row["external_id"] for row in batch]),
            )
            held = {row.external_id: row for row in db.execute(query)}
            written = []
            for row in batch:
                known = held.get(row["external_id"])
                if known is None:
                    counts.added += 1
                elif known.digest != row["digest"] or known.deleted_at is not None:
                    counts.changed += 1
                else:
                    continue
                written.append(row | {"connection_id": connection_id, "created_at": now, "updated_at": now})
            if written:
                db.execute(self._statement(table), written)
        return counts

    def _statement(self, table: Table) -> Any:
        insert = self._dialect.insert(table)
        keep = {"connection_id", "external_id", "created_at"}
        changed = table.c.digest != insert.excluded.digest
        new = {column.name: insert.excluded[column.name] for column in table.c if column.name not in keep}
        return insert.on_conflict_do_update(
            index_elements=["connection_id", "external_id"],
            set_=new
            | {
                "deleted_at": None,
                # a record that is back as it was has not changed
                "updated_at": case((changed, insert.excluded.updated_at), else_=table.c.updated_at),
            },
            # the guard against a race that the lease should have prevented
            where=or_(changed, table.c.deleted_at.is_not(None)),
        )

    def _delete(self, db: Db, connection_id: int, deletions: Iterable[Deletion], now: datetime) -> Counts:
        by_table: dict[Table, list[str]] = {}
        for one in deletions:
            by_table.setdefault(OF_KIND[one.kind], []).append(one.external_id)
        counts = Counts()
        for table, ids in by_table.items():
            for batch in batches(ids):
                gone = db.execute(
                    update(table)
                    .where(
                        table.c.connection_id == connection_id,
                        table.c.external_id.in_(batch),
                        table.c.deleted_at.is_(None),
                    )
                    .values(deleted_at=now)
                    .returning(table.c.external_id)
                )
                counts += Counts(deleted=len(gone.all())).of(table.name)
        return counts

    def _backlog(self, db: Db, connection_id: int, stream: str, page: Page, now: datetime) -> None:
        for given in page.pending:
            one = replace(given, external_id=clean(given.external_id), reason=clean(given.reason))
            insert = self._dialect.insert(backlog).values(self._waiting(connection_id, stream, one, now))
            if one.stream is not None and one.stream != stream:
                db.execute(insert.on_conflict_do_nothing())
                continue
            key = (connection_id, stream, one.external_id)
            held = db.execute(
                select(backlog.c.attempts).where(
                    backlog.c.connection_id == key[0], backlog.c.stream == key[1], backlog.c.external_id == key[2]
                )
            )
            attempts = (held.scalar_one_or_none() or 0) + 1
            next_try_at = now + (backlog_gap(attempts) if one.after is None else one.after)
            tried = {"attempts": attempts, "next_try_at": next_try_at, "reason": one.reason, "last_error": one.reason}
            db.execute(
                insert.values(**tried).on_conflict_do_update(
                    index_elements=["connection_id", "stream", "external_id"], set_=tried
                )
            )
        _drop(db, backlog, connection_id, stream, page.resolved)

    def _watches(self, db: Db, connection_id: int, stream: str, page: Page, now: datetime) -> None:
        rows = {(one.stream or stream, clean(one.external_id)): now + one.after for one in page.watches}
        insert = self._dialect.insert(watches)
        for batch in batches(sorted(rows)):
            values = [
                {
                    "connection_id": connection_id,
                    "stream": watching,
                    "external_id": one,
                    "next_try_at": rows[watching, one],
                }
                for watching, one in batch
            ]
            db.execute(
                insert.on_conflict_do_update(
                    index_elements=["connection_id", "stream", "external_id"],
                    set_={"next_try_at": insert.excluded.next_try_at},
                ),
                values,
            )
        _drop(db, watches, connection_id, stream, page.unwatched)

    def _waiting(self, connection_id: int, stream: str, one: Pending, now: datetime) -> dict[str, Any]:
        return {
            "connection_id": connection_id,
            "stream": one.stream or stream,
            "external_id": one.external_id,
            "reason": one.reason,
            "attempts": 0,
            "next_try_at": now if one.after is None else now + one.after,
            "created_at": now,
        }


def _drop(db: Db, table: Table, connection_id: int, stream: str, ids: Collection[str]) -> None:
    """Take these things of a stream out of the backlog or the watches."""
    for batch in batches(list(ids)):
        db.execute(_DROP[table], {"its": connection_id, "of": stream, "these": batch})


def digest(value: Any) -> str:
    """A fingerprint of JSON: the same for the same content, whatever the order of its members."""
    return hashlib.blake2b(dumped(value, orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def digest_of(record: Record) -> str:
    """What tells whether a record changed: of `raw`, or of what in it does not change by itself."""
    return digest(record.raw if record.stable is None else record.stable)


def _rows(kind: Kind, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Rows by external id, the last of several with the same one, in the order of the key (no deadlocks)."""
    names = [one.name for one in fields(kind) if one.name not in {"raw", "stable"}]
    rows = {}
    for record in records:
        row = {name: _storable(getattr(record, name)) for name in names}
        row["raw"] = Dumped(dumped(record.raw).decode())
        row["digest"] = digest_of(record)
        rows[record.external_id] = row
    return [rows[key] for key in sorted(rows)]


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | tuple | dict):
        return Dumped(dumped(value).decode())
    return value


def dumped(value: Any, option: int = 0) -> bytes:
    """JSON without what PostgreSQL refuses: NUL, lone surrogates."""
    try:
        dumped = orjson.dumps(value, option=option)
    except (TypeError, orjson.JSONEncodeError):  # a lone surrogate, or an integer beyond 64 bits
        return orjson.dumps(_cleaned(value), option=option | orjson.OPT_NON_STR_KEYS)
    return dumped if b"\\u0000" not in dumped else orjson.dumps(_cleaned(value), option=option)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(part) for part in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def batches(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[at : at + BATCH] for at in range(0, len(items), BATCH))
