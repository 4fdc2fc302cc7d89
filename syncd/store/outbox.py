"""Messages on their way to their receivers: a queue that survives restarts, from which one process at a time takes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, exists, func, or_, select, update

from syncd.alerts import Notice
from syncd.store.database import clean
from syncd.tables import alerts, connections, deliveries, notices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncSession

    from syncd.store.database import Database

HOLD = timedelta(minutes=2)  # a message is its taker's for so long at least; after that another may send it
_LONGEST_AHEAD = timedelta(hours=1)  # no message waits longer for its next try: one that does is of a wrong clock
_NOTICE = [notices.c[one.name] for one in fields(Notice)]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message for one receiver, taken by us. ``attempts``: with this one. ``who``: connections as (id, workspace,
    account), of those that the notice names and that are still there.
    """

    id: int
    receiver: str
    attempts: int
    made_at: datetime
    notice: Notice
    who: Sequence[tuple[int, str | None, str]]


class Outbox:
    def __init__(self, database: Database, now: Callable[[], datetime], lease: timedelta) -> None:
        self._database = database
        self._now = now
        self._hold = max(lease, HOLD)

    async def take(self, receiver: str) -> Delivery | None:
        """The next message for a receiver whose time has come; None when there is none.

        In their order: while one could not be delivered the later ones wait, except behind one that was refused.
        """
        now, of = self._now(), deliveries.c
        earlier = deliveries.alias()
        first = ~exists().where(
            earlier.c.receiver == of.receiver,
            earlier.c.notice_id < of.notice_id,
            earlier.c.next_try_at.is_not(None),
            earlier.c.refused.is_(False),
        )
        due = or_(of.next_try_at <= now, of.next_try_at > now + self._hold + _LONGEST_AHEAD)
        query = (
            select(of.notice_id)
            .where(of.receiver == receiver, of.next_try_at.is_not(None), due, first)
            .order_by(of.notice_id)
            .limit(1)
        )
        async with self._database.read() as session:  # a look at an empty queue takes no lock
            if (await session.execute(query)).one_or_none() is None:
                return None
        async with self._database.write() as session:
            notice_id = (await session.execute(query.with_for_update(skip_locked=True))).scalar_one_or_none()
            if notice_id is None:
                return None
            held = {"next_try_at": now + self._hold, "attempts": of.attempts + 1}
            taking = update(deliveries).where(_one(notice_id, receiver), due).values(held).returning(of.attempts)
            attempts = (await session.execute(taking)).scalar_one_or_none()
            return None if attempts is None else await _delivery(session, notice_id, receiver, attempts)

    async def sent(self, delivery: Delivery) -> None:
        await self._end(
            delivery, deliveries.c.sent_at.is_(None), next_try_at=None, sent_at=self._now(), error=None, refused=False
        )

    async def failed(self, delivery: Delivery, error: str, *, again_in: timedelta | None, refused: bool) -> None:
        """``again_in``: None: it is given up. ``refused``: the receiver took offence at this one, others may pass."""
        again = None if again_in is None else self._now() + again_in
        waits = deliveries.c.next_try_at.is_not(None)  # or it was withdrawn meanwhile
        await self._end(delivery, waits, next_try_at=again, error=clean(error), refused=refused)

    async def _end(self, delivery: Delivery, which: ColumnElement[bool], **values: Any) -> None:
        ending = update(deliveries).where(_one(delivery.id, delivery.receiver), which).values(**values)
        async with self._database.write() as session:
            await session.execute(ending)

    # ── what people look at ─────────────────────────────────────────────────────────────────────────────────────────

    async def waiting(self) -> dict[str, dict[str, Any]]:
        """Receiver → ``waiting`` messages, ``last_sent_at``, and the ``error`` of the one that waits longest."""
        of = deliveries.c
        counted = select(
            of.receiver, func.count(of.next_try_at).label("waiting"), func.max(of.sent_at).label("last_sent_at")
        ).group_by(of.receiver)
        failing = (
            select(of.receiver, of.error)
            .where(of.next_try_at.is_not(None), of.error.is_not(None))
            .order_by(of.notice_id.desc())
        )
        async with self._database.read() as session:
            rows = (await session.execute(counted)).all()
            errors = {row.receiver: row.error for row in await session.execute(failing)}
        names = ("waiting", "last_sent_at")
        return {row.receiver: {n: row._mapping[n] for n in names} | {"error": errors.get(row.receiver)} for row in rows}

    async def open_alerts(self) -> list[dict[str, Any]]:
        """The troubles that are not over, the oldest first, with whose they are."""
        whose = (connections.c.workspace_id, connections.c.account, connections.c.last_error)
        names = ("connection_id", "source", "trouble", "cause", "since", "told", "outage", "well_at")
        shown = [alerts.c[name] for name in names]
        query = (
            select(*shown, *whose)
            .join_from(alerts, connections, alerts.c.connection_id == connections.c.id)
            .where(alerts.c.ended_at.is_(None))
            .order_by(alerts.c.id)
        )
        async with self._database.read() as session:
            return [{str(name): part for name, part in row._mapping.items()} for row in await session.execute(query)]

    async def last(self, limit: int = 20) -> list[dict[str, Any]]:
        """The last messages, the newest first, each with its ``deliveries``."""
        shown = [column for column in notices.c if column.name not in {"few_at", "connection_id"}]
        async with self._database.read() as session:
            rows = await session.execute(select(*shown).order_by(notices.c.id.desc()).limit(limit))
            found = {row.id: {str(k): v for k, v in row._mapping.items()} | {"deliveries": []} for row in rows}
            theirs = select(deliveries).where(deliveries.c.notice_id.in_(found)).order_by(deliveries.c.receiver)
            for row in await session.execute(theirs):
                one = {str(name): part for name, part in row._mapping.items()}
                found[one.pop("notice_id")]["deliveries"].append(one)
        return list(found.values())

    async def prune(self, history: timedelta) -> None:
        """Drop what is over since longer than ``history``, and deliveries of messages that were purged."""
        before = self._now() - history
        gone = ~exists().where(notices.c.id == deliveries.c.notice_id)
        async with self._database.write() as session:
            await session.execute(delete(alerts).where(alerts.c.ended_at < before))
            await session.execute(delete(notices).where(notices.c.ended_at < before, notices.c.made_at < before))
            await session.execute(delete(deliveries).where(gone))


async def _delivery(session: AsyncSession, notice_id: int, receiver: str, attempts: int) -> Delivery | None:
    """What was just taken; None when its connection was purged meanwhile: then it goes as well."""
    found = await session.execute(select(notices.c.made_at, *_NOTICE).where(notices.c.id == notice_id))
    row = found.one_or_none()
    if row is None:
        await session.execute(delete(deliveries).where(_one(notice_id, receiver)))
        return None
    values = {str(name): value for name, value in row._mapping.items()}
    made_at = values.pop("made_at")
    notice = Notice(**values | {"connections": tuple(values["connections"])})
    named = select(connections.c.id, connections.c.workspace_id, connections.c.account).order_by(connections.c.id)
    rows = await session.execute(named.where(connections.c.id.in_(notice.connections)))
    who = [(one.id, one.workspace_id, one.account) for one in rows]
    return Delivery(notice_id, receiver, attempts, made_at, notice, who)


def _one(notice_id: int, receiver: str) -> Any:
    return and_(deliveries.c.notice_id == notice_id, deliveries.c.receiver == receiver)
