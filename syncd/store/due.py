"""Which connections a cycle may take, and how one stands that it could not take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, exists, func, or_, select

from syncd.policy import INTERRUPTED, OK, RUNNING
from syncd.store.clock import unowned
from syncd.tables import connections, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import ColumnElement, Select

    from syncd.store.database import Database

MOST_TRIES = 3  # in one cycle, of a connection whose runs are broken off: it may be what its process died of
_BROKEN_OFF = (INTERRUPTED, RUNNING)  # one that is RUNNING while nobody has the lease is a dead process's


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A connection at a moment. ``ran``: the statuses of its runs in the cycle, oldest first."""

    status: str
    is_active: bool
    assigned: bool
    sealed: bool
    next_sync_at: datetime | None
    limited_until: datetime | None
    leased_until: datetime | None
    ran: Sequence[str]


class Due:
    def __init__(self, database: Database, now: Callable[[], datetime], lease: timedelta) -> None:
        self._database, self._now, self._lease = database, now, lease

    async def ids(
        self,
        source: str,
        cycle_id: int,
        *,
        due: datetime | None,
        workspace: str | None = None,
        only: int | None = None,
        broken_off: bool = False,
    ) -> list[int]:
        """All that `Connections.claim` would take with ``again``, in its order.

        ``broken_off``: only those whose run in this cycle did not come to its end.
        """
        now = self._now()
        free = unowned(now, self._lease)
        query = takeable(source, cycle_id, now, due=due, workspace=workspace, only=only, again=True)
        query = in_turn(query.where(free))
        if broken_off:
            query = query.where(_ran(cycle_id, runs.c.status.in_(_BROKEN_OFF)))
        async with self._database.read() as session:
            return list(await session.scalars(query))

    async def standing(self, connection_id: int, cycle_id: int) -> Standing | None:
        """None when there is no such connection."""
        of = connections.c
        wanted = (of.status, of.is_active, of.next_sync_at, of.limited_until, of.leased_until)
        told = select(
            *wanted, of.workspace_id.is_not(None).label("assigned"), of.credentials.is_not(None).label("sealed")
        ).where(of.id == connection_id)
        tries = select(runs.c.status).where(runs.c.cycle_id == cycle_id, runs.c.connection_id == connection_id)
        async with self._database.read() as session:
            row = (await session.execute(told)).one_or_none()
            if row is None:
                return None
            ran = (await session.execute(tries.order_by(runs.c.id))).scalars().all()
        return Standing(**row._mapping, ran=ran)

    async def under_way(self, cycle_id: int) -> tuple[bool, bool]:
        """Of a cycle: whether a run goes on whose lease holds, and whether the database failed under one."""
        mine = (runs.c.cycle_id == cycle_id, connections.c.id == runs.c.connection_id)
        alive = exists().where(*mine, runs.c.status == RUNNING, ~unowned(self._now(), self._lease))
        cut = exists().where(mine[0], runs.c.status == INTERRUPTED, runs.c.error_kind == "database")
        async with self._database.read() as session:
            row = (await session.execute(select(alive, cut))).one()
        return bool(row[0]), bool(row[1])

    async def first_run(self, cycle_id: int) -> int | None:
        """The id of a cycle's first run."""
        async with self._database.read() as session:
            first: int | None = await session.scalar(select(func.min(runs.c.id)).where(runs.c.cycle_id == cycle_id))
            return first


def takeable(
    source: str,
    cycle_id: int,
    now: datetime,
    *,
    due: datetime | None,
    workspace: str | None = None,
    only: int | None = None,
    again: bool = False,
) -> Select[int]:
    """The connections that a cycle may take, whoever has their leases; as `Connections.claim` has it."""
    moment = connections.c.next_sync_at
    query = select(connections.c.id).where(
        active_of(source, workspace, only),
        or_(connections.c.limited_until.is_(None), connections.c.limited_until <= now),
    )
    if not again:
        # Looked up for each: told "not exists" and knowing little of a young table, PostgreSQL reads the whole cycle's.
        ran = select(runs.c.id).where(runs.c.cycle_id == cycle_id, runs.c.connection_id == connections.c.id).limit(1)
        query = query.where(ran.correlate(connections).scalar_subquery().is_(None))
        return query if due is None else query.where(or_(moment.is_(None), moment <= due))
    mine = (runs.c.cycle_id == cycle_id, runs.c.connection_id == connections.c.id)
    tries = select(func.count()).where(*mine).correlate(connections).scalar_subquery()
    query = query.where(~_ran(cycle_id, runs.c.status.not_in(_BROKEN_OFF)), tries < MOST_TRIES)
    if due is None:
        return query
    # who drained made it due again, and that is after the cycle's moment; whoever ran it since made it due later
    drained = _ran(cycle_id, runs.c.status == INTERRUPTED, moment <= runs.c.finished_at)
    return query.where(or_(moment.is_(None), moment <= due, drained))


def in_turn(query: Select[int]) -> Select[int]:
    """Who waits longest comes first.

    In the order of `connections_due`: else each claim would sort all that are due. Where those stand that have no turn,
    which only a hand at the table makes, is the database's own matter: they come in the same cycle.
    """
    return query.order_by(connections.c.next_sync_at, connections.c.id)


def active_of(source: str, workspace: str | None, only: int | None) -> ColumnElement[bool]:
    """The active ones of a source, narrowed to a workspace or one connection."""
    of = connections.c
    wanted = and_(of.source == source, of.is_active.is_(True), of.workspace_id.is_not(None), of.status == OK)
    if workspace is not None:
        wanted = and_(wanted, of.workspace_id == workspace)
    return wanted if only is None else and_(wanted, of.id == only)


def _ran(cycle_id: int, *how: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(runs.c.cycle_id == cycle_id, runs.c.connection_id == connections.c.id, *how)
