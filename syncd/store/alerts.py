"""Alerts in the database: what is told of whom, so that it is told once, whoever looks and whenever it restarts."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, delete, func, insert, or_, select, text, update

from syncd.alerts import PASSED, RECOVERED, WITHDRAWN, Alert, Notice, Outage, Seen, horizons
from syncd.policy import MISCONFIGURED, NEEDS_REAUTH
from syncd.store.status import Status
from syncd.tables import alerts, connections, deliveries, notices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession

    from syncd.alerts import Decision, Look
    from syncd.store.database import Database
    from syncd.store.status import Missed

_LOCK = 0x616C65727473  # "alerts": PostgreSQL's advisory lock, for one daemon at a time decides
_AT_ONCE = 200  # rows
_DAY = timedelta(days=1)
_ALERT = [one.name for one in fields(Alert)]
_NOTICE = [one.name for one in fields(Notice)]


class Alerts:
    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    async def look(
        self,
        look: Look,
        missed: Mapping[str, Missed],
        decide: Callable[[Look], Decision],
        receivers: Sequence[str],
    ) -> list[Notice]:
        """Let ``decide`` see all that is in trouble or has an alert, and store what it decides; answers what to tell.

        Each notice is queued for each of ``receivers``. Of several daemons one decides at a time, on what the others
        stored. A look at which there is nothing to decide takes no lock.
        """
        async with self._database.read() as session:
            if not decide(await self._filled(session, look, missed)):
                return []
        async with self._database.write() as session:
            if not self._database.is_sqlite:
                await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            known = await self._filled(session, look, missed)
            decision = decide(known)
            await self._save(session, known, decision)
            for notice in decision.notices:
                await self._queue(session, look.now, notice, receivers)
        return decision.notices

    async def _filled(self, session: AsyncSession, look: Look, missed: Mapping[str, Missed]) -> Look:
        of = alerts.c
        rows = await session.execute(select(*(of[name] for name in _ALERT)).where(of.ended_at.is_(None)))
        open_ones = [Alert(**row._mapping) async for row in _by_and_by(rows)]
        outages = [
            Outage(key=row.outage, source=row.source, cause=row.cause, began_at=row.made_at, few_at=row.few_at)
            for row in await session.execute(select(notices).where(_is_open_outage()))
        ]
        again = (
            select(of.connection_id, func.count())
            .where(of.ended == RECOVERED, of.outage.is_(None), of.ended_at > look.now - _DAY)
            .where(of.told.not_in((NEEDS_REAUTH, MISCONFIGURED)))
            .group_by(of.connection_id)
        )
        return replace(
            look,
            alerts=open_ones,
            outages=outages,
            seen=await self._seen(session, missed),
            read={
                key: await _count_read(session, key[0], since) for key, since in horizons(open_ones, outages).items()
            },
            rounds={row[0]: row[1] for row in await session.execute(again)},
        )

    async def _seen(self, session: AsyncSession, missed: Mapping[str, Missed]) -> dict[int, Seen]:
        of = connections.c
        *_, trouble = Status(self._database, self._now)._told(missed)
        followed = select(alerts.c.connection_id).where(alerts.c.ended_at.is_(None))
        columns = (of.id, of.source, of.is_active, of.workspace_id, of.status_since, of.created_at, of.last_error)
        limit = (of.limited_until, of.limited_by)
        more = (of.last_error_kind, of.last_success_at, of.next_sync_at, of.progress.is_not(None).label("in_pass"))
        query = select(*columns, *limit, *more, trouble.label("trouble"))
        found = {}
        rows = await session.execute(query.where(or_(trouble.is_not(None), of.id.in_(followed))))
        async for row in _by_and_by(rows):
            errs = row.trouble is not None and row.trouble not in {"late", "overdue"}
            why, _, hint = (row.last_error or "").partition(" - ") if errs else (_limit(row, self._now()), "", "")
            found[row.id] = Seen(
                id=row.id,
                source=row.source,
                trouble=row.trouble,
                watched=row.is_active and row.workspace_id is not None and row.source in missed,
                kind=row.last_error_kind,
                since=row.status_since if errs else row.last_success_at or row.created_at,
                last_success_at=row.last_success_at,
                next_sync_at=row.next_sync_at,
                in_pass=row.in_pass,
                said=(why, hint),
            )
        return found

    async def _save(self, session: AsyncSession, known: Look, decision: Decision) -> None:
        before = {alert.connection_id: alert for alert in known.alerts}
        blips, new, changed, withdrawn = [], [], [], []
        for alert in decision.alerts:
            was = before.get(alert.connection_id)
            if alert.ended == WITHDRAWN:
                withdrawn.append({"whose": alert.connection_id})
            if was is None:
                new.append(_values(known, alert))
            elif alert.ended in {PASSED, WITHDRAWN} and was.told is None:
                blips.append({"whose": alert.connection_id})
            else:
                values = _values(known, alert)
                changed.append({"whose": alert.connection_id} | {f"new_{name}": part for name, part in values.items()})
        mine = and_(alerts.c.connection_id == bindparam("whose"), alerts.c.ended_at.is_(None))
        set_to: dict[str, Any] = {name: bindparam(f"new_{name}") for name in (*_ALERT, "ended_at")}
        theirs = select(notices.c.id).where(notices.c.connection_id == bindparam("whose"))
        waiting = and_(deliveries.c.notice_id.in_(theirs), deliveries.c.next_try_at.is_not(None))
        dropped = {"next_try_at": None, "error": "withdrawn: it is paused or removed"}
        db = await session.connection()
        for statement, sets in (
            (delete(alerts).where(mine), blips),
            (insert(alerts), new),
            (update(alerts).where(mine).values(set_to), changed),
            (update(deliveries).where(waiting).values(dropped), withdrawn),
        ):
            if sets:
                await db.execute(statement, sets)
        for outage in decision.outages:
            values = {"few_at": outage.few_at, "ended_at": known.now if outage.ended else None}
            await session.execute(
                update(notices).where(_is_open_outage(), notices.c.outage == outage.key).values(**values)
            )

    async def _queue(self, session: AsyncSession, now: datetime, notice: Notice, receivers: Sequence[str]) -> None:
        values = {name: getattr(notice, name) for name in _NOTICE} | {"connections": list(notice.connections)}
        if notice.count == 1:
            values["connection_id"] = notice.connections[0]
        if notice.outage is None or notice.event == RECOVERED:
            values["ended_at"] = now
        made = await session.execute(insert(notices).values(made_at=now, **values).returning(notices.c.id))
        notice_id = made.scalar_one()
        for receiver in receivers:
            await session.execute(
                insert(deliveries).values(
                    notice_id=notice_id, receiver=receiver, attempts=0, next_try_at=now, refused=False
                )
            )


def _limit(row: Any, now: datetime) -> str:
    if row.limited_until is None or row.limited_until <= now:
        return ""
    return f"it waits for {row.limited_by or 'its vendor'} until {row.limited_until:%Y-%m-%d %H:%M} UTC"


async def _by_and_by(rows: Iterable[Any]) -> AsyncIterator[Any]:
    """With pauses for others: a vendor that is away puts all its connections in trouble."""
    for at, row in enumerate(rows, 1):
        yield row
        if at % _AT_ONCE == 0:
            await asyncio.sleep(0)


def _values(known: Look, alert: Alert) -> dict[str, Any]:
    ended_at = known.now if alert.ended else None
    return {name: getattr(alert, name) for name in _ALERT} | {"ended_at": ended_at}


def _is_open_outage() -> Any:
    of = notices.c
    return and_(of.outage.is_not(None), of.ended_at.is_(None), of.event != RECOVERED)


async def _count_read(session: AsyncSession, source: str, since: datetime) -> int:
    of = connections.c
    query = select(func.count()).where(of.source == source, of.is_active.is_(True), of.last_success_at > since)
    return int((await session.execute(query)).scalar_one())
