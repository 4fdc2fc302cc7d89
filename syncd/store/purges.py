"""Erasing: all that is held of a connection or of a workspace goes in one transaction, a line about it stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, text, tuple_

from syncd.tables import connections, metadata, purges

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Row, Table
    from sqlalchemy.ext.asyncio import AsyncSession

    from syncd.store.database import Database

# By their column, not by name: a table that is added later is not forgotten.
_OF_CONNECTION = [table for table in metadata.sorted_tables if "connection_id" in table.c and table is not purges]
# Their names are a kind of str that orjson does not take for a key: str() below.
_AT_ONCE = 10_000  # rows of one statement: PostgreSQL's are given up after a minute


@dataclass(frozen=True, slots=True)
class Which:
    """The connections that are meant: one by its id, or a workspace's, all or those of one source."""

    only: int | None = None
    workspace: str | None = None
    source: str | None = None

    def where(self) -> ColumnElement[bool]:
        """Raises ValueError where nothing is named: that would mean every connection."""
        if self.only is not None:
            return connections.c.id == self.only
        if self.workspace is None:
            raise ValueError("name a connection or a workspace")
        mine = connections.c.workspace_id == self.workspace
        return mine if self.source is None else mine & (connections.c.source == self.source)


@dataclass(frozen=True, slots=True)
class Holding:
    """What is held of a connection, or was: table → rows, tables without any left out."""

    connection_id: int
    workspace_id: str | None
    source: str
    account: str
    counts: dict[str, int]


class Purges:
    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    async def held(self, which: Which) -> list[Holding]:
        """What a purge would erase now, by connection."""
        async with self._database.read() as session:
            found = (await session.execute(_chosen(which))).all()
            counts: dict[int, dict[str, int]] = {one.id: {} for one in found}
            for table in _OF_CONNECTION:
                query = (
                    select(table.c.connection_id, func.count())
                    .where(table.c.connection_id.in_(counts))
                    .group_by(table.c.connection_id)
                )
                for connection_id, rows in await session.execute(query):
                    counts[connection_id][str(table.name)] = rows
        return [_holding(one, counts[one.id]) for one in found]

    async def purge(self, which: Which, *, by: str) -> list[Holding]:
        """Erase the connections and all that is held of them; answers what went. ``by``: who asked, for the line.

        A run under way loses its lease with the row: it writes nothing more. Sums in ``cycles`` stay, and so do
        ``budgets``: they name a credential by a hash, which connections may share.
        """
        now, gone = self._now(), []
        async with self._database.write() as session:
            if self._database.is_sqlite:
                await session.execute(text("PRAGMA secure_delete=ON"))  # or the rows stay in the file's free pages
            # Locked first: a page that is being stored is seen below, the next one finds no lease.
            for one in (await session.execute(_chosen(which).with_for_update())).all():
                counts = {str(table.name): await _erased(session, table, one.id) for table in _OF_CONNECTION}
                await session.execute(delete(connections).where(connections.c.id == one.id))
                held = _holding(one, {name: rows for name, rows in counts.items() if rows})
                # Without the account, which may be a person's address: that is what was to be erased.
                await session.execute(
                    insert(purges).values(
                        purged_at=now,
                        purged_by=by,
                        connection_id=held.connection_id,
                        workspace_id=held.workspace_id,
                        source=held.source,
                        counts=held.counts,
                    )
                )
                gone.append(held)
        await self._database.forget_journal()
        return gone

    async def log(self) -> Sequence[dict[str, Any]]:
        """The lines that purges left, the newest first."""
        async with self._database.read() as session:
            rows = await session.execute(select(purges).order_by(purges.c.id.desc()))
            return [{str(name): value for name, value in row._mapping.items()} for row in rows]


def _holding(one: Row[Any], counts: dict[str, int]) -> Holding:
    return Holding(one.id, one.workspace_id, one.source, one.account, counts)


def _chosen(which: Which) -> Any:
    c = connections.c
    return select(c.id, c.workspace_id, c.source, c.account).where(which.where()).order_by(c.id)


async def _erased(session: AsyncSession, table: Table, connection_id: int) -> int:
    """Erase the table's rows of the connection; answers how many there were."""
    key = list(table.primary_key)
    some = select(*key).where(table.c.connection_id == connection_id).limit(_AT_ONCE)
    statement = delete(table).where(tuple_(*key).in_(some))
    count = 0
    while rows := (await session.execute(statement)).rowcount:  # type: ignore[attr-defined]  # a CursorResult
        count += rows
    return count
