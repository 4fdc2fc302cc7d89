"""Which stored moments are believed, for the clock may have been set back: what was past then lies in the future."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ARRAY, all_, and_, bindparam, or_, select, update

from syncd.tables import backlog, budgets, connections, watches

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy import ColumnElement
    from sqlalchemy import Connection as Db

M = TypeVar("M", float, datetime)

_AHEAD = timedelta(minutes=1)
_PAST = ("updated_at", "created_at", "status_since", "last_success_at", "last_error_at", "last_sweep_at")


def ahead(now: datetime, lease: timedelta) -> datetime:
    """What was written as past, and lies beyond this, is of a time that the clock took back.

    Clocks of several daemons agree to within the lease, or leases mean nothing; so much is no step.
    """
    return now + max(lease, _AHEAD)


def unowned(now: datetime, lease: timedelta, held: Collection[int] = ()) -> ColumnElement[bool]:
    """Connections without a valid lease. ``held``: those that run in this process, whatever the clock says of theirs.

    No lease is longer than ``lease``: one that is was taken before the clock was set back.
    """
    until = connections.c.leased_until
    free = or_(until.is_(None), until < now, until > ahead(now, lease) + lease)
    return and_(free, connections.c.id.not_in(held)) if held else free


def is_unowned(*, sqlite: bool) -> ColumnElement[bool]:
    """The same as a condition that is made once; `unowned_values` are what it is executed with."""
    of = connections.c
    until = of.leased_until
    free = or_(until.is_(None), until < bindparam("now"), until > bindparam("latest"))
    # Not a list in SQLite's way on PostgreSQL: with each length it would be another statement to prepare.
    running: Any = bindparam("running", expanding=sqlite, type_=of.id.type if sqlite else ARRAY(of.id.type))
    return and_(free, of.id.not_in(running) if sqlite else of.id != all_(running))


def unowned_values(now: datetime, lease: timedelta, held: Collection[int] = ()) -> dict[str, Any]:
    return {"now": now, "latest": ahead(now, lease) + lease, "running": list(held)}


def set_back(db: Db, source: str, now: datetime, ahead: datetime) -> None:
    """Make the source's connections due that were written beyond ``ahead``: their turns are of a time taken back.

    What a vendor said is kept: it asked to wait for a span from a moment that is past, so after that span from now it
    is over for certain. What waits in their backlogs and watches is tried at once. So with limits, of whatever source.
    """
    past = [connections.c[name] for name in _PAST]
    of_the_future = (
        select(connections.c.id, connections.c.limited_until, *past)
        .where(connections.c.source == source, or_(*(moment > ahead for moment in past)))
        .with_for_update()
    )
    for row in db.execute(of_the_future).all():
        values: dict[str, Any] = {name: min(now, row._mapping[name]) for name in _PAST if row._mapping[name]}
        if row.limited_until is not None:
            values["limited_until"] = now + (row.limited_until - min(row.updated_at, row.limited_until))
        db.execute(update(connections).where(connections.c.id == row.id).values(next_sync_at=now, **values))
        for waiting in (backlog, watches):
            db.execute(
                update(waiting)
                .where(waiting.c.connection_id == row.id, waiting.c.next_try_at > now)
                .values(next_try_at=now)
            )
    _budgets_set_back(db, now, ahead)


def _budgets_set_back(db: Db, now: datetime, ahead: datetime) -> None:
    of = budgets.c
    rows = db.execute(select(budgets).where(of.updated_at > ahead)).all()
    # In the order of those who write several at once: two would else wait for each other.
    for row in sorted(rows, key=lambda one: (one.credential, one.name)):
        values: dict[str, Any] = {
            name: _over_after(row._mapping[name], row.updated_at, now)
            for name in ("closed_until", "low_until")
            if row._mapping[name] is not None
        }
        values["drawn"] = _drawn_set_back(row.drawn, row.updated_at.timestamp(), now.timestamp())
        unmoved = (of.credential == row.credential, of.name == row.name, of.updated_at == row.updated_at)
        db.execute(update(budgets).where(*unmoved).values(updated_at=now, **values))


def _drawn_set_back(drawn: Mapping[str, Any], written_s: float, now_s: float) -> dict[str, Any]:
    """``drawn`` as `Budgets` has it. None of it counts for shorter than it would have."""
    steps: Counter[str] = Counter()
    entries: dict[str, Any] = {}
    for key, held in drawn.items():
        if isinstance(held, list):
            entries[key] = [[_over_after(at_s, written_s, now_s), units] for at_s, units in held]
        elif key.isdigit():
            steps[str(math.ceil(_over_after(int(key), written_s, now_s)))] += held
    return entries | steps


def _over_after(moment: M, written: M, now: M) -> M:
    """A moment that was so far off when it was written is so far off now, for certain no less."""
    return min(moment, now + (moment - min(written, moment)))
