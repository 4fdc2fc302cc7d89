"""Storing a page: lease, records, cursor, backlog and watches in one transaction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import orjson
from sqlalchemy import case, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from syncd.errors import LeaseLost
from syncd.policy import backlog_gap
from syncd.store.database import Dumped, clean
from syncd.tables import OF_KIND, backlog, connections, cursors, runs, watches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncSession

    from syncd.records import Deletion, Kind, Record
    from syncd.source import Page, Pending
    from syncd.store.database import Database

T = TypeVar("T")
BATCH = 500  # rows of one statement: well under both databases' limit of parameters


@dataclass(slots=True)
class Counts:
    """What a page did: rows really written."""

    added: int = 0
    changed: int = 0
    deleted: int = 0

    def __iadd__(self, other: Counts) -> Self:
        self.added += other.added
        self.changed += other.changed
        self.deleted += other.deleted
        return self


class Pages:
    def __init__(self, database: Database, now: Callable[[], datetime], lease: timedelta) -> None:
        self._database = database
        self._now = now
        self._lease = lease
        self._dialect = sqlite if database.is_sqlite else postgresql

    async def checkpoint(
        self, page: Page, *, connection_id: int, stream: str, lease: str, run_id: int, records: int, calls: int
    ) -> Counts:
        """Store ``page`` of ``stream`` in one transaction. Raises `LeaseLost` when the connection is no longer ours.

        ``records``: how many of the page's records the run counts; ``calls``: the run's calls so far.
        """
        now = self._now()
        prepared = [
            (OF_KIND[kind], _rows(kind, [one for one in page.records if type(one) is kind]))
            for kind in OF_KIND
            if any(type(one) is kind for one in page.records)
        ]  # outside of the transaction: it holds SQLite's only writer
        async with self._database.write() as session:
            await self._own(session, connection_id, lease)
            counts = Counts()
            for table, rows in prepared:
                counts += await self._upsert(session, table, connection_id, rows, now)
            counts.deleted += await self._delete(session, connection_id, page.deletions, now)
            await self._cursor(session, connection_id, stream, page, now)
            await self._backlog(session, connection_id, stream, page, now)
            await self._watches(session, connection_id, stream, page, now)
            await session.execute(
                update(runs)
                .where(runs.c.id == run_id)
                .values(
                    records=runs.c.records + records,
                    added=runs.c.added + counts.added,
                    changed=runs.c.changed + counts.changed,
                    deleted=runs.c.deleted + counts.deleted,
                    calls=calls,
                )
            )
            return counts

    async def renew(self, connection_id: int, lease: str) -> None:
        """Keep the lease while no page comes. Raises `LeaseLost` when it is no longer ours."""
        async with self._database.write() as session:
            await self._own(session, connection_id, lease)

    async def _own(self, session: AsyncSession, connection_id: int, lease: str) -> None:
        """The fence: renew the lease in this transaction, or write nothing."""
        renewed = await session.execute(
            update(connections)
            .where(connections.c.id == connection_id, connections.c.lease == lease)
            .values(leased_until=self._now() + self._lease)
            .returning(connections.c.id)
        )
        if renewed.one_or_none() is None:
            raise LeaseLost

    async def forget_cursors(self, connection_id: int, stream: str, lease: str) -> None:
        """Drop all cursors of the stream. Raises `LeaseLost` when the connection is no longer ours."""
        async with self._database.write() as session:
            await self._own(session, connection_id, lease)
            await session.execute(
                delete(cursors).where(cursors.c.connection_id == connection_id, cursors.c.stream == stream)
            )

    async def _upsert(
        self, session: AsyncSession, table: Table, connection_id: int, rows: list[dict[str, Any]], now: datetime
    ) -> Counts:
        """Write only what is new, changed or back again: an unchanged row costs no write, not even a lock."""
        counts = Counts()
        for batch in batches(rows):
            query = select(table.c.external_id, table.c.digest, table.c.deleted_at).where(
                table.c.connection_id == connection_id,
                table.c.external_id.in_([row["external_id"] for row in batch]),
            )
            held = {row.external_id: row for row in await session.execute(query)}
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
                await session.execute(self._statement(table), written)
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

    async def _delete(
        self, session: AsyncSession, connection_id: int, deletions: Iterable[Deletion], now: datetime
    ) -> int:
        by_table: dict[Table, list[str]] = {}
        for one in deletions:
            by_table.setdefault(OF_KIND[one.kind], []).append(one.external_id)
        count = 0
        for table, ids in by_table.items():
            for batch in batches(ids):
                gone = await session.execute(
                    update(table)
                    .where(
                        table.c.connection_id == connection_id,
                        table.c.external_id.in_(batch),
                        table.c.deleted_at.is_(None),
                    )
                    .values(deleted_at=now)
                    .returning(table.c.external_id)
                )
                count += len(gone.all())
        return count

    async def _cursor(self, session: AsyncSession, connection_id: int, stream: str, page: Page, now: datetime) -> None:
        if page.forget:
            await session.execute(
                delete(cursors).where(
                    cursors.c.connection_id == connection_id,
                    cursors.c.stream == stream,
                    cursors.c.partition.in_(page.forget),
                )
            )
        if page.cursor is None:
            return
        insert = self._dialect.insert(cursors).values(
            connection_id=connection_id,
            stream=stream,
            partition=clean(page.partition),
            cursor=clean(page.cursor),
            updated_at=now,
        )
        await session.execute(
            insert.on_conflict_do_update(
                index_elements=["connection_id", "stream", "partition"],
                set_={"cursor": insert.excluded.cursor, "updated_at": insert.excluded.updated_at},
            )
        )

    async def _backlog(self, session: AsyncSession, connection_id: int, stream: str, page: Page, now: datetime) -> None:
        for given in page.pending:
            one = replace(given, external_id=clean(given.external_id), reason=clean(given.reason))
            insert = self._dialect.insert(backlog).values(self._waiting(connection_id, stream, one, now))
            if one.stream is not None and one.stream != stream:
                await session.execute(insert.on_conflict_do_nothing())
                continue
            key = (connection_id, stream, one.external_id)
            held = await session.execute(
                select(backlog.c.attempts).where(
                    backlog.c.connection_id == key[0], backlog.c.stream == key[1], backlog.c.external_id == key[2]
                )
            )
            attempts = (held.scalar_one_or_none() or 0) + 1
            next_try_at = now + (backlog_gap(attempts) if one.after is None else one.after)
            tried = {"attempts": attempts, "next_try_at": next_try_at, "reason": one.reason, "last_error": one.reason}
            await session.execute(
                insert.values(**tried).on_conflict_do_update(
                    index_elements=["connection_id", "stream", "external_id"], set_=tried
                )
            )
        await _drop(session, backlog, connection_id, stream, page.resolved)

    async def _watches(self, session: AsyncSession, connection_id: int, stream: str, page: Page, now: datetime) -> None:
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
            await session.execute(
                insert.on_conflict_do_update(
                    index_elements=["connection_id", "stream", "external_id"],
                    set_={"next_try_at": insert.excluded.next_try_at},
                ),
                values,
            )
        await _drop(session, watches, connection_id, stream, page.unwatched)

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


async def _drop(session: AsyncSession, table: Table, connection_id: int, stream: str, ids: Collection[str]) -> None:
    """Take these things of a stream out of the backlog or the watches."""
    for batch in batches(list(ids)):
        await session.execute(
            delete(table).where(
                table.c.connection_id == connection_id, table.c.stream == stream, table.c.external_id.in_(batch)
            )
        )


def digest(value: Any) -> str:
    """A fingerprint of JSON: the same for the same content, whatever the order of its members."""
    return hashlib.blake2b(_json(value, orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def digest_of(record: Record) -> str:
    """What tells whether a record changed: of `raw`, or of what in it does not change by itself."""
    return digest(record.raw if record.stable is None else record.stable)


def _rows(kind: Kind, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Rows by external id, the last of several with the same one, in the order of the key (no deadlocks)."""
    names = [one.name for one in fields(kind) if one.name not in {"raw", "stable"}]
    rows = {}
    for record in records:
        row = {name: _storable(getattr(record, name)) for name in names}
        row["raw"] = Dumped(_json(record.raw).decode())
        row["digest"] = digest_of(record)
        rows[record.external_id] = row
    return [rows[key] for key in sorted(rows)]


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | tuple | dict):
        return Dumped(_json(value).decode())
    return value


def _json(value: Any, option: int = 0) -> bytes:
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
