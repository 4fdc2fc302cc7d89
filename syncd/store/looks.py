"""Looking into the store: where a stream resumes, what is due, what is held. Nothing here writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, select

from syncd.source import Waiting
from syncd.store.batcher import Batcher
from syncd.store.known import AT_ONCE, Wanted, look
from syncd.store.pages import batches
from syncd.store.rows import digest_of
from syncd.store.selects import Found, Selects, Shape, live
from syncd.tables import OF_KIND, backlog, cursors, watches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
    from datetime import datetime

    from syncd.records import Kind, Record
    from syncd.store.database import Database
    from syncd.store.known import Known

_ITS: Any = bindparam("its")
_REMEMBERED = 2000  # digests of each kind; beside what the last answer told


class Looks:
    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._batcher = Batcher(self._looked)
        self._selects = Selects(database)

    async def known(
        self, connection_id: int, *, watching: Collection[str] = (), credential: str | None = None
    ) -> Known:
        """What a run needs to know as it begins, at once; ``watching``, ``credential`` as `known.Wanted` has them.

        Those that begin at the same moment are told together.
        """
        return await self._batcher.ask(Wanted(connection_id, tuple(watching), credential or ""))

    async def _looked(self, wanted: Sequence[Wanted]) -> Sequence[Known]:
        now = self._now()
        return await self._database.ask(lambda db: look(db, wanted, now))

    async def cursors(self, connection_id: int, stream: str) -> dict[str, str]:
        """Partition → cursor."""
        query = select(cursors.c.partition, cursors.c.cursor).where(
            cursors.c.connection_id == connection_id, cursors.c.stream == stream
        )
        async with self._database.read() as session:
            return {row.partition: row.cursor for row in await session.execute(query)}

    async def due_backlog(self, connection_id: int, stream: str) -> list[Waiting]:
        """The stream's items whose time has come, the longest due first, at most `AT_ONCE`."""
        query = (
            select(backlog.c.external_id, backlog.c.reason, backlog.c.attempts, backlog.c.created_at)
            .where(
                backlog.c.connection_id == connection_id,
                backlog.c.stream == stream,
                backlog.c.next_try_at <= self._now(),
            )
            .order_by(backlog.c.next_try_at, backlog.c.external_id)
            .limit(AT_ONCE)
        )
        async with self._database.read() as session:
            return [Waiting(*row) for row in await session.execute(query)]

    async def due_watches(self, connection_id: int, stream: str) -> list[str]:
        """The stream's watches whose time has come, the longest due first, at most `AT_ONCE`."""
        query = (
            select(watches.c.external_id)
            .where(
                watches.c.connection_id == connection_id,
                watches.c.stream == stream,
                watches.c.next_try_at <= self._now(),
            )
            .order_by(watches.c.next_try_at, watches.c.external_id)
            .limit(AT_ONCE)
        )
        async with self._database.read() as session:
            return [row[0] for row in await session.execute(query)]

    async def counts(self, connection_id: int | None = None) -> dict[str, int]:
        """Live rows per record table."""
        found = {}
        async with self._database.read() as session:
            for table in OF_KIND.values():
                query = select(func.count()).select_from(table).where(table.c.deleted_at.is_(None))
                if connection_id is not None:
                    query = query.where(table.c.connection_id == connection_id)
                found[table.name] = int((await session.execute(query)).scalar_one())
        return found

    def of(self, connection_id: int) -> OfConnection:
        """What a stream may ask about its connection: `source.Held`."""
        return OfConnection(self._database, connection_id, self._selects)


class OfConnection:
    """`source.Held`, and the comparison that `syncd verify` makes.

    Of what it answered lately it knows the digests, so that what comes as it is stored need not be stored again.
    """

    def __init__(self, database: Database, connection_id: int, selects: Selects) -> None:
        self._database, self._selects = database, selects
        self._id = connection_id
        self._digests: dict[Kind, dict[str, str]] = {}

    async def stored(self, kind: Kind, ids: Collection[str], *members: str) -> dict[str, tuple[Any, ...]]:
        shape, found = Shape(OF_KIND[kind], members, (), ("external_id",), timed=False), Found()
        for batch in batches(list(dict.fromkeys(ids))):
            found |= await self._selects.ask(shape, {"its": self._id, "is_external_id": batch})
        return self._told(kind, found)

    async def select(
        self, kind: Kind, *members: str, between: tuple[datetime, datetime] | None = None, **equal: object
    ) -> dict[str, tuple[Any, ...]]:
        values = {"its": self._id, **{f"is_{name}": value for name, value in equal.items()}}
        if between is not None:
            values |= {"least": between[0], "most": between[1]}
        among = tuple(name for name, value in equal.items() if isinstance(value, list))
        same = tuple(name for name in equal if name not in among)
        shape = Shape(OF_KIND[kind], members, same, among, timed=between is not None)
        return self._told(kind, await self._selects.ask(shape, values))

    def _told(self, kind: Kind, found: Found) -> Found:
        digests = self._digests.setdefault(kind, {})
        if len(digests) > _REMEMBERED:
            digests.clear()
        digests |= {key: row[-1] for key, row in found.items()}
        return {key: row[:-1] for key, row in found.items()}

    def changed(self, records: Sequence[Record]) -> Sequence[Record]:
        """Less those that an answer showed to be stored as they are."""
        if not any(self._digests.values()):
            return records
        changed = {(type(one), one.external_id) for one in records if not self._holds(one)}  # one may come twice
        return [one for one in records if (type(one), one.external_id) in changed]

    def _holds(self, record: Record) -> bool:
        known = self._digests.get(type(record), {}).get(record.external_id)
        return known is not None and known == digest_of(record)

    def touched(self, things: Iterable[tuple[Kind, str]]) -> None:
        """These are about to change: what an answer showed of them says nothing any more."""
        if any(self._digests.values()):
            for kind, external_id in things:
                self._digests.get(kind, {}).pop(external_id, None)

    async def ids(self, kind: Kind) -> AsyncIterator[Sequence[str]]:
        table, last = OF_KIND[kind], ""
        while True:
            query = live(table, (), _ITS).where(table.c.external_id > last).order_by(table.c.external_id)
            async with self._database.read() as session:
                batch = [row[0] for row in await session.execute(query.limit(AT_ONCE), {"its": self._id})]
            if not batch:
                return
            yield batch
            last = batch[-1]

    async def compared(self, kind: Kind, records: Sequence[Record]) -> tuple[list[str], list[str]]:
        """The ids of those records that are not stored live, and of those that are stored with other content."""
        table = OF_KIND[kind]
        wanted = {record.external_id: digest_of(record) for record in records}
        held: dict[str, str] = {}
        async with self._database.read() as session:
            for batch in batches(list(wanted)):
                query = select(table.c.external_id, table.c.digest).where(
                    table.c.connection_id == self._id, table.c.external_id.in_(batch), table.c.deleted_at.is_(None)
                )
                held |= {row[0]: row[1] for row in await session.execute(query)}
        missing = [one for one in wanted if one not in held]
        return missing, [one for one, fresh in wanted.items() if held.get(one, fresh) != fresh]
