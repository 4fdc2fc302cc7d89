"""What `syncd status`, the API, the page, metrics and alerts show: read-only sums over connections, cycles and runs.

A connection's ``state`` is what it does or waits for; ``freshness`` how old what we hold of it may be; ``trouble`` what
is wrong with it, which neither a run under way nor a limit hides. All three are made here, once, for all who tell them.
"""

from __future__ import annotations

from dataclasses import dataclass
from json import dumps
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, false, func, null, or_, select, text

from syncd.policy import BACKFILL, MISCONFIGURED, NEEDS_REAUTH, OK
from syncd.tables import backlog, connections, cursors, cycles, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select

    from syncd.store.database import Database

STATES = (
    *("ok", "new", "running", "limited", "failing"),
    *(NEEDS_REAUTH, MISCONFIGURED, "paused", "unassigned", "removed"),
)
TROUBLES = (NEEDS_REAUTH, MISCONFIGURED, "failing", "overdue", "late")  # the first that holds is told
FRESHNESS = ("on_time", "late", "overdue")

_SHOWN = (
    "id",
    "workspace_id",
    "source",
    "account",
    "is_active",
    "status",
    "status_since",
    "failures",
    "last_success_at",
    "next_sync_at",
    "limited_until",
    "limited_by",
    "progress",
    "last_error",
    "last_error_kind",
    "last_error_at",
)
_OF_CYCLE = (
    "id",
    "trigger",
    "turn",
    "status",
    "started_at",
    "finished_at",
    "total",
    "added",
    "changed",
    "deleted",
    "calls",
    "successful_workspaces",
    "failed_workspaces",
    "deferred_workspaces",
)
_OF_BAR = ("connection_id", "id", "status")
# A window function would number each run that is kept; so the index gives the last few of each.
_LAST_RUNS = text(
    f"SELECT last.* FROM unnest(CAST(:ids AS bigint[])) AS whose(id) CROSS JOIN LATERAL (SELECT {', '.join(_OF_BAR)} "  # noqa: S608
    "FROM runs WHERE connection_id = whose.id ORDER BY id DESC LIMIT :count) AS last"
)
_LAST_RUNS_SQLITE = text(
    f"SELECT {', '.join(f'runs.{name}' for name in _OF_BAR)} FROM json_each(:ids) AS whose JOIN runs ON runs.id IN "  # noqa: S608
    "(SELECT last.id FROM runs AS last WHERE last.connection_id = whose.value ORDER BY last.id DESC LIMIT :count)"
)


@dataclass(frozen=True, slots=True)
class Missed:
    """When what was last read before that is ``late``, a whole turn missed, or ``overdue``, two; of one source."""

    late_before: datetime
    overdue_before: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which connections; None: all. ``search``: a part of the workspace or account, or the id."""

    source: str | None = None
    state: str | None = None
    freshness: str | None = None
    trouble: str | None = None
    workspace: str | None = None
    search: str | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Sum:
    """How many connections of a source are alike. ``oldest``: when the one that was read longest ago was last read."""

    source: str
    state: str
    freshness: str | None
    trouble: str | None
    count: int
    oldest: datetime | None


class Status:
    """``missed`` in what follows: source → `Missed`, of the sources that are on."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self.now = now

    async def connections(self, missed: Mapping[str, Missed] | None = None) -> list[dict[str, Any]]:
        """Every connection with its state and its backlog's size."""
        waiting = (
            select(backlog.c.connection_id, func.count().label("backlog")).group_by(backlog.c.connection_id).subquery()
        )
        query = (
            self._shown(missed or {})
            .add_columns(func.coalesce(waiting.c.backlog, 0).label("backlog"))
            .outerjoin(waiting, waiting.c.connection_id == connections.c.id)
            .order_by(connections.c.source, connections.c.workspace_id, connections.c.id)
        )
        return await self._rows(query)

    async def find(
        self,
        wanted: Wanted,
        missed: Mapping[str, Missed],
        *,
        limit: int = 100,
        offset: int = 0,
        worst_first: bool = False,
    ) -> tuple[list[dict[str, Any]], int]:
        """Those that are ``wanted``, and how many there are of them. Else ordered by source, workspace and id."""
        state, freshness, trouble = self._told(missed)
        which = _where(wanted, state, freshness, trouble)
        order: list[Any] = [connections.c.source, connections.c.workspace_id, connections.c.id]
        if worst_first:
            ranks = {name: at for at, name in enumerate(TROUBLES)}
            order[:0] = [case(ranks, value=trouble, else_=len(ranks)), case({"limited": 0}, value=state, else_=1)]
        query = self._shown(missed).where(*which).order_by(*order).limit(limit).offset(offset)
        count = select(func.count()).select_from(connections).where(*which)
        async with self._database.read() as session:
            rows = [dict(row._mapping) for row in await session.execute(query)]
            total = int((await session.execute(count)).scalar_one())
            ids = [row["id"] for row in rows]
            waiting = (
                select(backlog.c.connection_id, func.count())
                .where(backlog.c.connection_id.in_(ids))
                .group_by(backlog.c.connection_id)
            )
            sizes = {row[0]: row[1] for row in await session.execute(waiting)} if ids else {}
        for row in rows:
            row["backlog"] = sizes.get(row["id"], 0)
        return rows, total

    async def troubled(self, missed: Mapping[str, Missed], *, each: int) -> list[dict[str, Any]]:
        """Of each source the first ``each`` in the same trouble, and of those that are limited, in one look at all."""
        state, _, trouble = self._told(missed)
        limited = case((state == "limited", 1), else_=0)
        alike = func.row_number().over(partition_by=(connections.c.source, trouble, limited), order_by=connections.c.id)
        ill = self._shown(missed).add_columns(alike.label("place")).where(or_(trouble.is_not(None), limited == 1))
        first = ill.subquery()
        rows = await self._rows(select(first).where(first.c.place <= each).order_by(first.c.id))
        return [{name: part for name, part in row.items() if name != "place"} for row in rows]

    async def sums(self, missed: Mapping[str, Missed]) -> list[Sum]:
        """How many there are of each kind."""
        told = self._told(missed)
        query = select(connections.c.source, *told, func.count(), func.min(_read_at())).group_by(
            connections.c.source, *told
        )
        async with self._database.read() as session:
            return [Sum(*row) for row in await session.execute(query)]

    async def waiting(self) -> list[tuple[str, str, int]]:
        """(source, limit, how many connections wait for it)."""
        query = (
            select(connections.c.source, connections.c.limited_by, func.count())
            .where(connections.c.limited_by.is_not(None), connections.c.limited_until > self.now())
            .group_by(connections.c.source, connections.c.limited_by)
            .order_by(connections.c.source, connections.c.limited_by)
        )
        async with self._database.read() as session:
            return [(row[0], row[1], row[2]) for row in await session.execute(query)]

    async def backlogs(self) -> dict[str, int]:
        """Source → the size of its backlog."""
        query = (
            select(connections.c.source, func.count())
            .join_from(backlog, connections, backlog.c.connection_id == connections.c.id)
            .group_by(connections.c.source)
        )
        async with self._database.read() as session:
            return {row[0]: row[1] for row in await session.execute(query)}

    # ── cycles and runs ─────────────────────────────────────────────────────────────────────────────────────────────

    async def last_cycle(self, source: str) -> dict[str, Any] | None:
        """The source's last cycle; a backfill's are none, they read no window."""
        query = _cycles(source).order_by(cycles.c.id.desc()).limit(1)
        found = await self._rows(query)
        return found[0] if found else None

    async def cycles(self, source: str, since: datetime, *, limit: int = 1500) -> list[dict[str, Any]]:
        """The source's cycles since a moment, oldest first; of too many the last ``limit``."""
        query = _cycles(source).where(cycles.c.started_at >= since).order_by(cycles.c.id.desc()).limit(limit)
        return (await self._rows(query))[::-1]

    async def runs(self, connection_id: int, *, limit: int = 50, before: int | None = None) -> list[dict[str, Any]]:
        """A connection's runs, the last first; ``before``: only those before this run."""
        query = select(runs).where(runs.c.connection_id == connection_id)
        if before is not None:
            query = query.where(runs.c.id < before)
        return await self._rows(query.order_by(runs.c.id.desc()).limit(limit))

    async def run(self, run_id: int) -> dict[str, Any] | None:
        found = await self._rows(select(runs).where(runs.c.id == run_id))
        return found[0] if found else None

    async def under_way(self, *, limit: int = 200) -> list[dict[str, Any]]:
        """The runs under way, in whatever process, with their connections' source, workspace, account and limit."""
        of = connections.c
        whose = (of.source, of.workspace_id, of.account, of.limited_by, of.limited_until)
        query = (
            select(runs, *whose)
            .join_from(runs, connections, runs.c.connection_id == of.id)
            .where(runs.c.status == "running", of.leased_until > self.now())
            .order_by(runs.c.id)
            .limit(limit)
        )
        return await self._rows(query)

    async def last_runs(self, ids: Sequence[int], count: int) -> dict[int, list[dict[str, Any]]]:
        """Connection → how its last ``count`` runs went, oldest first."""
        if not ids:
            return {}
        query, whose = (_LAST_RUNS_SQLITE, dumps(ids)) if self._database.is_sqlite else (_LAST_RUNS, list(ids))
        async with self._database.read() as session:
            rows = [tuple(row) for row in await session.execute(query, {"ids": whose, "count": count})]
        found: dict[int, list[dict[str, Any]]] = {one: [] for one in ids}
        for connection_id, run_id, status in sorted(rows, key=lambda row: row[1]):
            found[connection_id].append({"id": run_id, "status": status})
        return found

    # ── backlog and cursors ─────────────────────────────────────────────────────────────────────────────────────────

    async def backlog(self, connection_id: int, *, limit: int = 100, offset: int = 0) -> list[dict[str, Any]]:
        """A connection's backlog, the oldest first."""
        mine = select(backlog).where(backlog.c.connection_id == connection_id)
        order = (backlog.c.created_at, backlog.c.stream, backlog.c.external_id)
        return await self._rows(mine.order_by(*order).limit(limit).offset(offset))

    async def backlog_reasons(self, connection_id: int) -> list[tuple[str, str, int]]:
        """(stream, reason, how many) of one connection's backlog, most first."""
        query = (
            select(backlog.c.stream, backlog.c.reason, func.count())
            .where(backlog.c.connection_id == connection_id)
            .group_by(backlog.c.stream, backlog.c.reason)
            .order_by(func.count().desc())
            .limit(20)
        )
        async with self._database.read() as session:
            return [(row[0], row[1], row[2]) for row in await session.execute(query)]

    async def cursors(self, connection_id: int, *, limit: int = 200) -> list[dict[str, Any]]:
        """Where a connection's streams stand."""
        mine = select(cursors).where(cursors.c.connection_id == connection_id)
        return await self._rows(mine.order_by(cursors.c.stream, cursors.c.partition).limit(limit))

    # ── what each connection is told as ─────────────────────────────────────────────────────────────────────────────

    def _told(self, missed: Mapping[str, Missed]) -> tuple[ColumnElement[Any], ColumnElement[Any], ColumnElement[Any]]:
        """(state, freshness, trouble) of each connection."""
        of, now = connections.c, self.now()
        out = or_(of.is_active.is_(False), of.workspace_id.is_(None))
        state = case(
            (and_(of.is_active.is_(False), of.credentials.is_(None)), "removed"),
            (of.is_active.is_(False), "paused"),
            (of.workspace_id.is_(None), "unassigned"),
            (of.status != OK, of.status),
            (of.leased_until > now, "running"),
            (of.limited_until > now, "limited"),
            (of.failures > 0, "failing"),
            (or_(of.last_success_at.is_not(None), of.progress.is_not(None)), "ok"),
            else_="new",
        )
        freshness = case(
            (out, null()),
            *((and_(of.source == name, _last_before(one.overdue_before)), "overdue") for name, one in missed.items()),
            *((and_(of.source == name, _last_before(one.late_before)), "late") for name, one in missed.items()),
            (of.source.in_(list(missed)), "on_time"),
            else_=null(),
        )
        trouble = case(
            (out, null()),
            (of.status != OK, of.status),
            (of.failures > 0, "failing"),
            (freshness.in_(("overdue", "late")), freshness),
            else_=null(),
        )
        return state, freshness, trouble

    def _shown(self, missed: Mapping[str, Missed]) -> Select[Any]:
        state, freshness, trouble = self._told(missed)
        return select(
            *(connections.c[name] for name in _SHOWN),
            state.label("state"),
            freshness.label("freshness"),
            trouble.label("trouble"),
            func.coalesce(connections.c.leased_until > self.now(), false()).label("running"),
            connections.c.credentials.is_not(None).label("has_credentials"),
        ).select_from(connections)

    async def _rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        async with self._database.read() as session:
            # str(): SQLAlchemy's names are a kind of str that orjson does not take for one
            return [{str(name): part for name, part in row._mapping.items()} for row in await session.execute(query)]


def _read_at() -> ColumnElement[datetime]:
    """When a connection was last read: a pass of several runs is read with each of them."""
    of = connections.c
    return case((of.progress.is_not(None), of.updated_at), else_=func.coalesce(of.last_success_at, of.created_at))


def _last_before(moment: datetime) -> ColumnElement[bool]:
    """Neither read nor changed its status since: new credentials, a pause that ended, begin a time of grace."""
    since = connections.c.status_since
    return and_(_read_at() < moment, or_(since.is_(None), since < moment))


def _cycles(source: str) -> Select[Any]:
    return select(*(cycles.c[name] for name in _OF_CYCLE)).where(
        cycles.c.source == source, cycles.c.trigger != BACKFILL
    )


def _where(
    wanted: Wanted, state: ColumnElement[Any], freshness: ColumnElement[Any], trouble: ColumnElement[Any]
) -> Iterable[ColumnElement[bool]]:
    of = connections.c
    pairs = (
        (of.source, wanted.source),
        (state, wanted.state),
        (freshness, wanted.freshness),
        (trouble, wanted.trouble),
        (of.workspace_id, wanted.workspace),
        (of.id, wanted.id),
    )
    found: list[ColumnElement[bool]] = [column == value for column, value in pairs if value is not None]
    if wanted.search:
        like = [column.icontains(wanted.search, autoescape=True) for column in (of.workspace_id, of.account)]
        exact = [of.id == int(wanted.search)] if wanted.search.isdecimal() and len(wanted.search) < 18 else []
        found.append(or_(*like, *exact))
    return found
