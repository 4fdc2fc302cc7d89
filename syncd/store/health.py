"""What tells whether all is well, for metrics, `doctor` and `tail`: sums over many connections, and the last runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, or_, select

from syncd.policy import RUNNING
from syncd.store.clock import unowned
from syncd.tables import backlog, connections, cursors, cycles, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime, timedelta

    from sqlalchemy import Select

    from syncd.store.database import Database


_LATELY = 20_000  # runs: what ended last is among them, and no more are looked at
_OF_RUN = (
    *("id", "connection_id", "status", "started_at", "finished_at"),
    *("records", "added", "changed", "deleted", "calls", "error_kind", "error"),
)


@dataclass(frozen=True, slots=True)
class Whose:
    """Of which source and workspace; None: of all."""

    source: str | None = None
    workspace: str | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """A source's backlog: how many things, and since when the oldest waits."""

    count: int
    oldest: datetime


class Health:
    def __init__(self, database: Database, now: Callable[[], datetime], lease: timedelta) -> None:
        self._database = database
        self._now = now
        self._lease = lease

    async def backlogs(self) -> dict[str, Backlog]:
        """By source; absent where nothing waits."""
        query = (
            select(connections.c.source, func.count(), func.min(backlog.c.created_at))
            .join_from(backlog, connections, backlog.c.connection_id == connections.c.id)
            .group_by(connections.c.source)
        )
        return {row[0]: Backlog(row[1], row[2]) for row in await self._all(query)}

    async def leases(self) -> dict[str, int]:
        """Source → how many connections some process reads now."""
        of = connections.c
        query = select(of.source, func.count()).where(of.leased_until > self._now()).group_by(of.source)
        return {row[0]: row[1] for row in await self._all(query)}

    async def last_turns(self) -> dict[str, datetime]:
        """Source → the last scheduled turn that some daemon took."""
        query = select(cycles.c.source, func.max(cycles.c.turn)).where(cycles.c.turn.is_not(None))
        return {row[0]: row[1] for row in await self._all(query.group_by(cycles.c.source))}

    async def dead_runs(self) -> int:
        """How many runs nobody goes on with: their leases ran out before they told their end."""
        dead = select(connections.c.id).where(unowned(self._now(), self._lease))
        query = select(func.count()).where(runs.c.status == RUNNING, runs.c.connection_id.in_(dead))
        return int((await self._all(query))[0][0])

    async def clock_off_s(self) -> float | None:
        """How far our clock is before the server's; None for SQLite, which has none of its own."""
        if self._database.is_sqlite:
            return None
        before = self._now()
        at = (await self._all(select(func.clock_timestamp())))[0][0]
        return float((before - at).total_seconds())

    async def runs_now(self, whose: Whose, *, limit: int) -> list[dict[str, Any]]:
        """The runs under way, in whatever process, the oldest first, each with ``reading``: the stream that it stored a
        cursor of last, None before the first.
        """
        alive = (runs.c.status == RUNNING, connections.c.leased_until > self._now())
        rows = await self._rows(_runs(whose).where(*alive).order_by(runs.c.id).limit(limit))
        of = cursors.c
        query = (
            select(of.connection_id, of.stream, func.max(of.updated_at))
            .where(of.connection_id.in_([row["connection_id"] for row in rows]))
            .group_by(of.connection_id, of.stream)
        )
        stored: dict[int, tuple[datetime, str]] = {}
        for one, stream, at in await self._all(query) if rows else ():
            stored[one] = max(stored.get(one, (at, stream)), (at, stream))
        for row in rows:
            at, stream = stored.get(row["connection_id"], (None, None))
            row["reading"] = stream if at is not None and at >= row["started_at"] else None
        return rows

    async def runs_ended(self, whose: Whose, *, limit: int) -> list[dict[str, Any]]:
        """The runs that ended last, the last one first; of the last 20,000."""
        newest = select(func.coalesce(func.max(runs.c.id), 0)).scalar_subquery()
        query = _runs(whose).where(runs.c.status != RUNNING, runs.c.id > newest - _LATELY)
        return await self._rows(query.order_by(runs.c.finished_at.desc(), runs.c.id.desc()).limit(limit))

    async def newest_run(self) -> int:
        """The id of the run that began last, 0 where there is none."""
        return int((await self._all(select(func.coalesce(func.max(runs.c.id), 0))))[0][0])

    async def runs_since(self, whose: Whose, after: int, ids: Collection[int]) -> list[dict[str, Any]]:
        """The runs with a higher id than ``after``, and those with these ``ids``, in the order in which they began."""
        return await self._rows(_runs(whose).where(or_(runs.c.id > after, runs.c.id.in_(ids))).order_by(runs.c.id))

    async def _rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        return [{str(name): part for name, part in row._mapping.items()} for row in await self._all(query)]

    async def _all(self, query: Select[Any]) -> list[Any]:
        async with self._database.read() as session:
            return list(await session.execute(query))


def _runs(whose: Whose) -> Select[Any]:
    """Runs with what is to be told of their connections."""
    of = connections.c
    columns = (*(runs.c[name] for name in _OF_RUN), of.source, of.workspace_id, of.limited_by, of.limited_until)
    query = select(*columns, cycles.c.trigger).join_from(runs, connections, runs.c.connection_id == of.id)
    query = query.outerjoin(cycles, cycles.c.id == runs.c.cycle_id)
    if whose.source is not None:
        query = query.where(of.source == whose.source)
    return query if whose.workspace is None else query.where(of.workspace_id == whose.workspace)
