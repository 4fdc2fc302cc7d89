"""What streams ask about the records that are stored: those that ask alike at the same moment are answered at once."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Integer,
    String,
    Text,
    any_,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB

from syncd.store.batcher import Batcher
from syncd.store.rows import document
from syncd.tables import UtcDateTime, meetings, messages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection as Db
    from sqlalchemy import Dialect, Table

    from syncd.store.database import Database

Found = dict[str, tuple[Any, ...]]

_TIMES = {messages: messages.c.sent_at, meetings: meetings.c.started_at}


class Shape(NamedTuple):
    """``members``: of each record's JSON that are wanted; ``equal``: the columns that are compared with a value each,
    ``among``: with several; ``timed``: and when it was sent, or began.
    """

    table: Table
    members: tuple[str, ...]
    equal: tuple[str, ...]
    among: tuple[str, ...]
    timed: bool


class Selects:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._batchers: dict[Shape, Batcher[Mapping[str, Any], Found]] = {}

    async def ask(self, shape: Shape, values: Mapping[str, Any]) -> Found:
        """External id → members, and the digest last. ``values``: ``its``, the connection's id; ``is_…`` for each of
        ``equal`` and ``among``; ``least`` and ``most``.
        """
        if shape not in self._batchers:
            self._batchers[shape] = Batcher(lambda asked: self._answered(shape, asked))
        return await self._batchers[shape].ask(values)

    async def _answered(self, shape: Shape, asked: Sequence[Mapping[str, Any]]) -> Sequence[Found]:
        def stepwise(db: Db) -> list[Found]:
            query = _where(shape, db.dialect.name)
            return [{row[0]: tuple(row[1:]) for row in db.execute(query, dict(values))} for values in asked]

        def together(db: Db) -> list[Found]:
            found: list[Found] = [{} for _ in asked]
            if db.dialect.name == "sqlite":
                rows = db.execute(_joined(shape), {"asked": _document(shape, asked, db.dialect)})
            else:
                listed = {f"is_{name}" for name in shape.among}
                values: dict[str, Any] = {
                    name: [document(one[name]) if name in listed else one[name] for one in asked]
                    for name in _kinds(shape)
                    if name != "at"
                }
                rows = db.execute(_together(shape), {**values, "at": list(range(len(asked)))})
            for row in rows:
                found[row[0]][row[1]] = tuple(row[2:])
            return found

        return await self._database.ask(stepwise if len(asked) == 1 else together)


# Made once for each shape: to make a statement costs more than to run it.


def live(table: Table, members: Sequence[str], its: Any) -> Any:
    """Those of a connection that are not deleted."""
    wanted = [table.c.raw if name == "*" else table.c.raw[name].label(f"m{at}") for at, name in enumerate(members)]
    return select(table.c.external_id, *wanted).where(table.c.connection_id == its, table.c.deleted_at.is_(None))


def _narrowed(shape: Shape, of: Any) -> Any:
    """``of``: name → what holds its value."""
    query = live(shape.table, shape.members, of("its")).add_columns(shape.table.c.digest)
    query = query.where(*(shape.table.c[name] == of(f"is_{name}") for name in shape.equal))
    return query.where(_TIMES[shape.table].between(of("least"), of("most"))) if shape.timed else query


@cache
def _where(shape: Shape, dialect: str) -> Any:
    query = _narrowed(shape, bindparam)
    for name in shape.among:
        its, key = shape.table.c[name], f"is_{name}"
        if dialect == "sqlite":
            query = query.where(its.in_(bindparam(key, expanding=True)))
        else:  # an IN would be another statement for each length
            query = query.where(its == any_(bindparam(key, type_=ARRAY(Text))))
    return query


def _kinds(shape: Shape) -> dict[str, Any]:
    kinds: dict[str, Any] = {"at": Integer(), "its": BigInteger()}
    kinds |= {f"is_{name}": shape.table.c[name].type for name in shape.equal}
    kinds |= {f"is_{name}": Text() for name in shape.among}  # a list of its own: arrays of several lengths are no array
    kinds |= dict.fromkeys(("least", "most"), UtcDateTime()) if shape.timed else {}
    return {name: Text() if isinstance(kind, String) else kind for name, kind in kinds.items()}


@cache
def _together(shape: Shape) -> Any:
    """The place of who asked, and what each is answered."""
    kinds = _kinds(shape)
    arrays = func.unnest(*(bindparam(name, type_=ARRAY(kind)) for name, kind in kinds.items()))
    asked = arrays.table_valued(*(column(name, kind) for name, kind in kinds.items())).render_derived("asked")
    each = _narrowed(shape, lambda name: asked.c[name])
    for name in shape.among:
        listed = select(func.jsonb_array_elements_text(cast(asked.c[f"is_{name}"], JSONB))).correlate(asked)
        each = each.where(shape.table.c[name] == any_(func.array(listed.scalar_subquery(), type_=ARRAY(Text))))
    # The offset keeps it a question for each: joined with all of them at once, a whole table could be read.
    each = each.offset(literal_column("0")).lateral("each")
    return select(asked.c.at, *each.c).select_from(asked.join(each, true()))


@cache
def _joined(shape: Shape) -> Any:
    """`_together` as SQLite has it: what is asked comes as one JSON text. It looks up each in the table's index."""
    asked = func.json_each(bindparam("asked", type_=Text)).table_valued("key", "value", name="asked")
    each = _narrowed(shape, lambda name: func.json_extract(asked.c.value, f"$.{name}"))
    for name in shape.among:
        listed = func.json_each(asked.c.value, f"$.is_{name}").table_valued("value", name=f"of_{name}")
        each = each.where(shape.table.c[name].in_(select(listed.c.value)))
    return each.with_only_columns(asked.c.key, *each.selected_columns).select_from(asked)


def _document(shape: Shape, asked: Sequence[Mapping[str, Any]], dialect: Dialect) -> str:
    """What `_joined` is executed with: each value as it is stored, which for a time is another text than JSON's."""
    stored = {name: kind.dialect_impl(dialect).bind_processor(dialect) for name, kind in _kinds(shape).items()}
    stored |= {f"is_{name}": None for name in shape.among}
    rows = [{name: made(one[name]) if (made := stored[name]) else one[name] for name in one} for one in asked]
    return document(rows)
