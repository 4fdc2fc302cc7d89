"""What a run needs to know as it begins: where its streams resume, what is due, what is known of its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select

from syncd.source import Waiting
from syncd.store.budgets import known_budgets, of_credential
from syncd.tables import backlog, cursors, watches

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import BindParameter
    from sqlalchemy import Connection as Db

    from syncd.bucket import Budget

AT_ONCE = 500  # things of the backlog, or watches, that one run takes up

# Made once: to make a statement costs more than to run it.
_ITS: BindParameter[int] = bindparam("its")
_CURSORS = select(cursors.c.stream, cursors.c.partition, cursors.c.cursor).where(cursors.c.connection_id == _ITS)
# In no order: the database need not sort what is too much to be taken in anyway.
_BACKLOG = (
    select(
        backlog.c.stream,
        backlog.c.next_try_at,
        backlog.c.external_id,
        backlog.c.reason,
        backlog.c.attempts,
        backlog.c.created_at,
    )
    .where(backlog.c.connection_id == _ITS)
    .limit(AT_ONCE + 1)
)
_WATCHES = (
    select(watches.c.external_id)
    .where(watches.c.connection_id == _ITS, watches.c.stream == bindparam("of"))
    .where(watches.c.next_try_at <= bindparam("by"))
    .order_by(watches.c.next_try_at, watches.c.external_id)
    .limit(AT_ONCE)
)


@dataclass(frozen=True, slots=True)
class Known:
    """``cursors``: stream → partition → cursor. ``backlog``: all of it, due or not, by stream and external id, each
    with its time; None: it is too long for that. ``watched``: the due watches of each stream that was asked for.
    ``budgets``: of the credential. ``at``: when all this was so.
    """

    at: datetime
    cursors: Mapping[str, Mapping[str, str]]
    backlog: Mapping[tuple[str, str], tuple[datetime, Waiting]] | None
    watched: Mapping[str, Sequence[str]]
    budgets: Sequence[Budget] = ()

    def due(self, stream: str) -> list[Waiting] | None:
        """The stream's items whose time has come, the longest due first; None where the backlog is too long."""
        if self.backlog is None:
            return None
        mine = [kept for (of, _), kept in self.backlog.items() if of == stream and kept[0] <= self.at]
        return [item for _, item in sorted(mine, key=lambda kept: (kept[0], kept[1].external_id))]


def look(
    db: Db, connection_id: int, *, now: datetime, watching: Collection[str], credential: str | None = None
) -> Known:
    """``watching``: the streams that want to know their due watches. ``credential``: whose budgets are told."""
    its = {"its": connection_id}
    resume: dict[str, dict[str, str]] = {}
    for stream, partition, cursor in db.execute(_CURSORS, its):
        resume.setdefault(stream, {})[partition] = cursor
    kept: Any = db.execute(_BACKLOG, its).all()
    waiting = {(row[0], row[2]): (row[1], Waiting(*row[2:])) for row in kept} if len(kept) <= AT_ONCE else None
    due = {
        stream: list(db.execute(_WATCHES, {**its, "of": stream, "by": now}).scalars()) for stream in sorted(watching)
    }
    budgets = known_budgets(of_credential(db, credential), now).get(credential, []) if credential else []
    return Known(now, resume, waiting, due, budgets)
