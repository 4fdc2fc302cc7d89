"""What `syncd status`, the API and the status page show: read-only sums over connections, cycles and backlog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from syncd.policy import BACKFILL
from syncd.tables import backlog, connections, cycles

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from syncd.store.database import Database

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


class Status:
    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    async def connections(self) -> list[dict[str, Any]]:
        """Every connection with its state, whether it runs now, and its backlog's size."""
        waiting = (
            select(backlog.c.connection_id, func.count().label("backlog")).group_by(backlog.c.connection_id).subquery()
        )
        query = (
            select(
                *(connections.c[name] for name in _SHOWN),
                func.coalesce(connections.c.leased_until > self._now(), False).label("running"),
                func.coalesce(waiting.c.backlog, 0).label("backlog"),
                connections.c.credentials.is_not(None).label("has_credentials"),
            )
            .outerjoin(waiting, waiting.c.connection_id == connections.c.id)
            .order_by(connections.c.source, connections.c.workspace_id, connections.c.id)
        )
        async with self._database.read() as session:
            rows = [dict(row._mapping) for row in await session.execute(query)]
        for row in rows:
            row["running"] = bool(row["running"])
        return rows

    async def last_cycle(self, source: str) -> dict[str, Any] | None:
        """The source's last cycle; a backfill's are none, they read no window."""
        query = (
            select(*(cycles.c[name] for name in _OF_CYCLE))
            .where(cycles.c.source == source, cycles.c.trigger != BACKFILL)
            .order_by(cycles.c.id.desc())
            .limit(1)
        )
        async with self._database.read() as session:
            row = (await session.execute(query)).one_or_none()
        return dict(row._mapping) if row else None

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
