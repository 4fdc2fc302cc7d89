"""Budgets that outlive a process and are shared by all: what is closed or lowered until when, what was drawn."""

from __future__ import annotations

import math
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, or_, select, true, update
from sqlalchemy.dialects import postgresql, sqlite

from syncd.bucket import LONG_S, Budget, Grant, Rate
from syncd.tables import budgets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncSession

    from syncd.store.database import Database

_STEPS = 24  # a long limit's period is counted in so many steps: a day's by the hour
_BLOCKS = 500  # units are granted in blocks of about such a part of the limit
_KEPT = timedelta(days=31)
_LATE, _LATE_S = 1 / 6, 60.0  # a call may reach the vendor so late, as a part of the period, at most in seconds
TOLD = (budgets.c.credential, budgets.c.name, budgets.c.closed_until, budgets.c.low_until, budgets.c.drawn)


class Budgets:
    """Rows by (credential, limit). ``drawn``: of a long limit the end of a step (epoch seconds) → units granted in it;
    of a short one process → [[epoch seconds, units], …].
    """

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._dialect = sqlite if database.is_sqlite else postgresql

    async def of(self, credential: str) -> list[Budget]:
        """What is known of the credential's limits, by whatever process."""
        return (await self._known(budgets.c.credential == credential)).get(credential, [])

    async def all(self) -> dict[str, list[Budget]]:
        """What is known of every credential's limits."""
        return await self._known(true())

    async def _known(self, which: ColumnElement[bool]) -> dict[str, list[Budget]]:
        async with self._database.read() as session:
            rows = (await session.execute(select(*TOLD).where(which))).all()
        return known_budgets(rows, self._now())

    async def save(self, credential: str, rows: Sequence[Budget]) -> None:
        """Add what a process found out. A closing is never shortened; what other processes drew is kept."""
        now = self._now()
        async with self._database.write() as session:
            for row in sorted(rows, key=lambda one: one.name):  # in one order: two processes never wait for each other
                held = await self._locked(session, credential, row.name, now)
                changes: dict[str, Any] = {"updated_at": now}
                if row.closed_s > _left_s(held.closed_until, now):
                    changes["closed_until"] = now + timedelta(seconds=row.closed_s)
                if row.low_s is not None:
                    changes["low_until"] = now + timedelta(seconds=row.low_s) if row.low_s else None
                if row.drawn:
                    changes["drawn"] = _merged(held.drawn, row.drawn, now.timestamp())
                await session.execute(_of(credential, row.name).values(changes))

    async def reserve(self, credential: str, name: str, rate: Rate, units: int) -> Grant:
        """Count ``units`` of a limit, and some to spare, before they are drawn.

        Where there are too few, ``seconds`` says when there will be ``units``. What is granted and not drawn is lost:
        it never counts too little, not even after a crash.
        """
        now = self._now()
        async with self._database.write() as session:
            held = await self._locked(session, credential, name, now)
            if closed_s := _left_s(held.closed_until, now):  # another process was told so
                return Grant(0, closed_s, closed=True)
            drawn, granted, seconds = reserved(held.drawn, now.timestamp(), rate, units)
            if granted:
                await session.execute(_of(credential, name).values(drawn=drawn, updated_at=now))
        return Grant(granted, seconds)

    async def prune(self, history: timedelta) -> None:
        """Forget what was last written longer ago, if no limit can still count it."""
        now = self._now()
        old = budgets.c.updated_at < now - max(history, _KEPT)
        over = (or_(until.is_(None), until < now) for until in (budgets.c.closed_until, budgets.c.low_until))
        async with self._database.write() as session:
            await session.execute(delete(budgets).where(old, *over))

    async def _locked(self, session: AsyncSession, credential: str, name: str, now: datetime) -> Any:
        """The row, made where there is none, ours alone until the transaction ends."""
        empty = {"credential": credential, "name": name, "drawn": {}, "updated_at": now}
        await session.execute(self._dialect.insert(budgets).values(empty).on_conflict_do_nothing())
        query = select(budgets.c.drawn, budgets.c.closed_until)
        mine = query.where(budgets.c.credential == credential, budgets.c.name == name).with_for_update()
        return (await session.execute(mine)).one()


def known_budgets(rows: Iterable[Sequence[Any]], now: datetime) -> dict[str, list[Budget]]:
    """What rows of `TOLD` tell, by credential."""
    found = dict[str, list[Budget]]()
    for credential, name, closed_until, low_until, drawn in rows:
        known = Budget(
            name, _left_s(closed_until, now), _left_s(low_until, now), _ago(drawn, now), _granted(drawn, now)
        )
        found.setdefault(credential, []).append(known)
    return found


def reserved(drawn: Mapping[str, Any], now: float, rate: Rate, units: int) -> tuple[dict[str, int], int, float]:
    """``drawn`` with what is granted added, how much that is, and the seconds (as a `Grant` has them).

    A step's units count until a whole period after its end. One that ends later than the present one was counted by a
    clock that ran ahead: it is taken for the present one.
    """
    ends = math.ceil((now // (rate.per_s / _STEPS) + 1) * (rate.per_s / _STEPS))
    counts_s = rate.per_s + min(rate.per_s * _LATE, _LATE_S)
    counts: Counter[int] = Counter()
    for step, count in drawn.items():
        at = min(int(step), ends) if step.isdigit() else 0
        if at + counts_s > now:
            counts[at] += count
    left = rate.calls - counts.total()
    if left >= units:
        granted = min(left, max(units, min(rate.calls, left * 10) // _BLOCKS))
        counts[ends] += granted
        return {str(at): count for at, count in counts.items()}, granted, ends - now
    for at in sorted(counts):
        left += counts[at]
        if left >= units:
            return {}, 0, at + counts_s - now
    return {}, 0, rate.per_s


def _of(credential: str, name: str) -> Any:
    return update(budgets).where(budgets.c.credential == credential, budgets.c.name == name)


def _left_s(until: datetime | None, now: datetime) -> float:
    return max(0.0, (until - now).total_seconds()) if until else 0.0


def _ago(drawn: Mapping[str, Any], now: datetime) -> dict[str, list[tuple[float, int]]]:
    """What was drawn of a short limit, by process."""
    at = now.timestamp()
    entries = {by: held for by, held in drawn.items() if isinstance(held, list)}
    return {by: [(max(0.0, at - moment), units) for moment, units in held] for by, held in entries.items()}


def _granted(drawn: Mapping[str, Any], now: datetime) -> Sequence[tuple[float, int]]:
    """What was granted of a long limit, by step."""
    at = now.timestamp()
    return tuple((at - int(step), count) for step, count in drawn.items() if isinstance(count, int) and step.isdigit())


def _merged(held: Mapping[str, Any], new: Mapping[str, Sequence[tuple[float, int]]], now: float) -> dict[str, Any]:
    """What was drawn of a short limit, less what no longer counts."""
    kept = {by: entries for by, entries in held.items() if isinstance(entries, list) and entries[-1][0] + LONG_S > now}
    return kept | {by: [[now - ago, units] for ago, units in entries] for by, entries in new.items()}
