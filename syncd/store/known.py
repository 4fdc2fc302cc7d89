"""What runs need to know as they begin: where their streams resume, what is due, what is known of their limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ARRAY, BigInteger, Integer, Text, any_, bindparam, cast, literal_column, null, select, union_all

from syncd.source import Waiting
from syncd.store.budgets import known_budgets
from syncd.tables import UtcDateTime, backlog, budgets, cursors, watches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy import Connection as Db

    from syncd.bucket import Budget

AT_ONCE = 500  # things of the backlog, or watches, that one run takes up


class Wanted(NamedTuple):
    """``watching``: the streams that want to know their due watches. ``credential``: whose budgets are told."""

    connection_id: int
    watching: tuple[str, ...] = ()
    credential: str = ""


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


class _Found(NamedTuple):
    """A row: of the cursors (``text``: the cursor), the backlog, the watches, or the budgets (``of``: the credential,
    ``name``: the limit, ``at``: closed until, ``other_at``: low until).
    """

    kind: int
    its: int
    of: str
    name: str
    text: str
    number: int
    at: Any
    other_at: Any
    drawn: Any


_CURSOR, _BACKLOG, _WATCH, _BUDGET = range(4)


def look(db: Db, wanted: Sequence[Wanted], now: datetime) -> list[Known]:
    """What each wants to know, in one statement. Where that is too much, each is asked for by itself."""
    watching = {name for one in wanted for name in one.watching}
    values = {
        "its": sorted({one.connection_id for one in wanted}),
        "watchers": sorted({one.connection_id for one in wanted if one.watching}),
        "watched": sorted(watching),
        "by": now,
        "whose": sorted({one.credential for one in wanted if one.credential}),
    }
    rows = [_Found(*row) for row in db.execute(_query(db.dialect.name), values)]
    of_kind = [[row for row in rows if row.kind == kind] for kind in range(4)]
    if len(of_kind[_BACKLOG]) > AT_ONCE or len(of_kind[_WATCH]) > AT_ONCE:
        if len(wanted) > 1:
            return [known for one in wanted for known in look(db, [one], now)]
        if len(watching) > 1:  # of each stream so many
            known = look(db, [wanted[0]._replace(watching=())], now)[0]
            each = (look(db, [wanted[0]._replace(watching=(name,))], now)[0].watched for name in sorted(watching))
            return [replace(known, watched={name: ids for watched in each for name, ids in watched.items()})]
    told = known_budgets([(row.of, row.name, row.at, row.other_at, row.drawn) for row in of_kind[_BUDGET]], now)
    return [_known(one, of_kind, told.get(one.credential, ()), now) for one in wanted]


def _known(one: Wanted, of_kind: Sequence[Sequence[_Found]], told: Sequence[Budget], now: datetime) -> Known:
    resume: dict[str, dict[str, str]] = {}
    mine = [[row for row in rows if row.its == one.connection_id] for rows in of_kind[:_BUDGET]]
    for row in mine[_CURSOR]:
        resume.setdefault(row.of, {})[row.name] = row.text
    waiting = {
        (row.of, row.name): (row.at, Waiting(row.name, row.text, row.number, row.other_at)) for row in mine[_BACKLOG]
    }
    due = sorted(mine[_WATCH], key=lambda row: (row.at, row.name))
    watched = {name: [row.name for row in due if row.of == name][:AT_ONCE] for name in sorted(one.watching)}
    return Known(now, resume, waiting if len(waiting) <= AT_ONCE else None, watched, told)


@cache
def _query(dialect: str) -> Any:
    """Made once: to make a statement costs more than to run it."""
    asked = {
        name: bindparam(name, expanding=True) if dialect == "sqlite" else bindparam(name, type_=ARRAY(kind))
        for name, kind in (("its", BigInteger), ("watchers", BigInteger), ("watched", Text), ("whose", Text))
    }

    def among(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        return column.in_(asked[name]) if dialect == "sqlite" else column == any_(asked[name])

    def part(*columns: ColumnElement[Any]) -> Any:
        return select(*(column.label(name) for name, column in zip(_Found._fields, columns, strict=True)))

    nothing = null()
    at, number, drawn = (cast(nothing, kind) for kind in (UtcDateTime, Integer, budgets.c.drawn.type))
    of: Any = cursors.c
    resume = part(
        literal_column(str(_CURSOR), Integer), of.connection_id, of.stream, of.partition, of.cursor, number, at, at,
        drawn,
    ).where(among(of.connection_id, "its"))  # fmt: skip
    of = backlog.c
    # In no order: the database need not sort what is too much to be taken in anyway.
    waiting = part(
        literal_column(str(_BACKLOG)), of.connection_id, of.stream, of.external_id, of.reason, of.attempts,
        of.next_try_at, of.created_at, drawn,
    ).where(among(of.connection_id, "its")).limit(AT_ONCE + 1)  # fmt: skip
    of = watches.c
    due = part(
        literal_column(str(_WATCH)), of.connection_id, of.stream, of.external_id, cast(nothing, Text), number,
        of.next_try_at, at, drawn,
    ).where(among(of.connection_id, "watchers"), among(of.stream, "watched"))  # fmt: skip
    due = due.where(of.next_try_at <= bindparam("by"))
    due = due.order_by(of.next_try_at, of.external_id).limit(AT_ONCE + 1)
    of = budgets.c
    limits = part(
        literal_column(str(_BUDGET)), cast(nothing, BigInteger), of.credential, of.name, cast(nothing, Text), number,
        of.closed_until, of.low_until, of.drawn,
    ).where(among(of.credential, "whose"))  # fmt: skip
    return union_all(resume, *(select(limited.subquery()) for limited in (waiting, due)), limits)
