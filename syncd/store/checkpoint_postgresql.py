"""Pages stored by one statement, fence and all: PostgreSQL is asked once, instead of once for each table and thrice
more. What does not change costs it no write, not even a lock.

A page's rows go there as one JSON text, which takes the least time on this side, and are taken apart there.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import LargeBinary, Text, any_, bindparam, cast, column, func, literal, or_, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from syncd.store.merged import by_stream
from syncd.store.rows import document, dumped, rewritten
from syncd.tables import OF_KIND, UtcDateTime, backlog, connections, cursors, runs, watches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import CTE, BindParameter, Table

    from syncd.store.merged import Key, Merged

    Shape = tuple[tuple[Table, ...], tuple[Table, ...], tuple[str, ...]]

_NOW: BindParameter[Any] = bindparam("now", type_=UtcDateTime)
_PLACE = ["connection_id", "stream", "partition"]
_THING = ["connection_id", "stream", "external_id"]


def any_of(name: str) -> Any:
    """One of these texts, which come as one JSON text: an array's elements would be looked at one by one."""
    these = select(func.jsonb_array_elements_text(cast(bindparam(name, type_=Text), JSONB))).scalar_subquery()
    return any_(func.array(these, type_=ARRAY(Text)))


def _given(table: Table, name: str, names: Sequence[str]) -> Any:
    """Rows of ``table``, of those of its columns, that come as JSON: its bytes, as a text would be made of them and
    made bytes again on its way.
    """
    text = func.convert_from(bindparam(name, type_=LargeBinary), "UTF8")
    rows = func.jsonb_to_recordset(cast(text, JSONB))
    columns = [column(one, table.c[one].type) for one in names]
    return rows.table_valued(*columns, name=f"given_{name}").render_derived(with_types=True)


def _put(table: Table, mine: CTE) -> tuple[CTE, CTE]:
    """The rows that are stored already, and those that were written."""
    name, made_here = table.name, {"connection_id", "created_at", "updated_at", "deleted_at"}
    known = (
        select(table.c.external_id, table.c.digest, table.c.deleted_at)
        .where(table.c.connection_id == bindparam("its"), table.c.external_id == any_of(f"{name}_ids"))
        .cte(f"known_{name}")
    )
    names = [one.name for one in table.c if one.name not in made_here]
    given = _given(table, name, names)
    rows = (
        select(mine.c.id, *(given.c[one] for one in names), _NOW, _NOW)
        .select_from(given.outerjoin(known, known.c.external_id == given.c.external_id))
        .join(mine, literal(True))
        .where(or_(known.c.digest.is_(None), known.c.digest != given.c.digest, known.c.deleted_at.is_not(None)))
    )
    insert = postgresql.insert(table).from_select(["connection_id", *names, "created_at", "updated_at"], rows)
    return known, rewritten(table, insert).returning(table.c.external_id).cte(f"put_{name}")


def _gone(table: Table, mine: CTE) -> CTE:
    return (
        update(table)
        .where(table.c.connection_id == mine.c.id, table.c.external_id == any_of(f"{table.name}_gone"))
        .where(table.c.deleted_at.is_(None))
        .values(deleted_at=_NOW)
        .returning(table.c.external_id)
        .cte(f"gone_{table.name}")
    )


def _dropped(table: Table, key: Any, name: str, mine: CTE) -> CTE:
    """Rows by stream and ``key``; the array finds them, the object tells one stream's from another's."""
    of_streams = cast(bindparam(f"{name}_of", type_=Text), JSONB)
    gone = sql_delete(table).where(table.c.connection_id == mine.c.id, key == any_of(name))
    return gone.where(of_streams[table.c.stream].bool_op("?")(key)).returning(table.c.stream).cte(f"gone_{name}")


def _moved(mine: CTE) -> CTE:
    names = ["stream", "partition", "cursor"]
    given = _given(cursors, "moved", names)
    rows = select(mine.c.id, *(given.c[one] for one in names), _NOW).select_from(given).join(mine, literal(True))
    put = postgresql.insert(cursors).from_select(["connection_id", *names, "updated_at"], rows)
    new = {name: put.excluded[name] for name in ("cursor", "updated_at")}
    put = put.on_conflict_do_update(index_elements=_PLACE, set_=new)
    return put.returning(cursors.c.stream).cte("put_cursors")


def _waiting(name: str, mine: CTE) -> CTE:
    names = ["stream", "external_id", "reason", "attempts", "next_try_at", "last_error"]
    given = _given(backlog, name, names)
    rows = select(mine.c.id, *(given.c[one] for one in names), _NOW).select_from(given).join(mine, literal(True))
    put = postgresql.insert(backlog).from_select(["connection_id", *names, "created_at"], rows)
    new = {one: put.excluded[one] for one in ("reason", "attempts", "next_try_at", "last_error")}
    put = (
        put.on_conflict_do_update(index_elements=_THING, set_=new)
        if name == "tried"
        else put.on_conflict_do_nothing(index_elements=_THING)
    )
    return put.returning(backlog.c.stream).cte(f"put_{name}")


def _watched(mine: CTE) -> CTE:
    names = ["stream", "external_id", "next_try_at"]
    given = _given(watches, "watched", names)
    rows = select(mine.c.id, *(given.c[one] for one in names)).select_from(given).join(mine, literal(True))
    put = postgresql.insert(watches).from_select(["connection_id", *names], rows)
    put = put.on_conflict_do_update(index_elements=_THING, set_={"next_try_at": put.excluded.next_try_at})
    return put.returning(watches.c.stream).cte("put_watches")


_ALSO: dict[str, Callable[[CTE], CTE]] = {
    "moved": _moved,
    "forgotten": lambda mine: _dropped(cursors, cursors.c.partition, "forgotten", mine),
    "announced": lambda mine: _waiting("announced", mine),
    "tried": lambda mine: _waiting("tried", mine),
    "resolved": lambda mine: _dropped(backlog, backlog.c.external_id, "resolved", mine),
    "watched": _watched,
    "unwatched": lambda mine: _dropped(watches, watches.c.external_id, "unwatched", mine),
}


def _number(rows: Any) -> Any:
    return select(func.count()).select_from(rows).scalar_subquery()


@cache
def storing(puts: tuple[Table, ...], gone: tuple[Table, ...], also: tuple[str, ...]) -> Any:
    """Write rows into ``puts``, delete some of ``gone``, do what ``also`` names, all if the lease is ours.

    Answers one row if so: of each of ``puts`` how many rows were written, and how many of these had been there before;
    then of each of ``gone``.
    """
    mine = (
        update(connections)
        .where(connections.c.id == bindparam("its"), connections.c.lease == bindparam("held"))
        .values(leased_until=bindparam("leased_until", type_=UtcDateTime))
        .returning(connections.c.id)
        .cte("mine")
    )
    did: list[Any] = []
    for table in puts:
        known, put = _put(table, mine)
        there = put.join(known, known.c.external_id == put.c.external_id)
        did += [_number(put).label(f"{table.name}_put"), _number(there).label(f"{table.name}_before")]
    did += [_number(_gone(table, mine)).label(f"{table.name}_gone") for table in gone]
    told = select(mine.c.id, *did).cte("told")
    tally: dict[str, list[Any]] = {
        "added": [told.c[f"{table.name}_put"] - told.c[f"{table.name}_before"] for table in puts],
        "changed": [told.c[f"{table.name}_before"] for table in puts],
        "deleted": [told.c[f"{table.name}_gone"] for table in gone],
    }
    run = (
        update(runs)
        .where(runs.c.id == bindparam("run"), runs.c.connection_id == told.c.id)
        .values(
            records=runs.c.records + bindparam("rows"),
            calls=bindparam("asked"),
            **{name: sum(counts, start=runs.c[name]) for name, counts in tally.items() if counts},
        )
        .returning(runs.c.id)
        .cte("run")
    )
    return select(told).add_cte(run, *(_ALSO[name](mine) for name in also))


def values(
    page: Merged, rows: Mapping[Table, Sequence[Mapping[str, Any]]], attempts: Mapping[Key, int]
) -> tuple[Shape, dict[str, Any]]:
    """What `storing` is chosen by, and what it is executed with; ``rows``: by `row`; ``attempts``: see `Merged`."""
    texts: dict[str, Any] = {
        f"{table.name}_ids": document([one["external_id"] for one in some]) for table, some in rows.items()
    }
    texts |= {table.name: dumped(some) for table, some in rows.items()}
    gone = {OF_KIND[kind]: document(list(ids)) for kind, ids in page.deletions.items() if ids}
    texts |= {f"{table.name}_gone": ids for table, ids in gone.items()}
    put = {
        "moved": page.moved(),
        "announced": page.coming(),
        "tried": page.waiting(attempts),
        "watched": page.watched(),
    }
    also: dict[str, Any] = {name: dumped(some) for name, some in put.items() if some}
    for name, keys in (("forgotten", page.forgotten()), ("resolved", page.resolved), ("unwatched", page.unwatched)):
        if keys:
            also[name] = document(sorted({key for _, key in keys}))
            texts[f"{name}_of"] = document(by_stream(keys))
    return (tuple(rows), tuple(gone), tuple(also)), {**texts, **also, "now": page.now}
