"""Which stored moments are believed, for the clock may have been set back: what was past then lies in the future."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, all_, and_, bindparam, or_, select, update

from syncd.tables import backlog, connections, watches

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy import Connection as Db

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
    is over for certain. What waits in their backlogs and watches is tried at once.
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
