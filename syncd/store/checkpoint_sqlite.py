"""Pages stored step by step, in a transaction that has seen to the lease: SQLite's way, which is nowhere far away.

There is one statement for each table, made once, whatever number of rows it is about: their ids come as one JSON text.
`attempts` is asked by both databases.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, bindparam, case, delete, func, select, update
from sqlalchemy.dialects import sqlite

from syncd.store.counts import Counts
from syncd.store.merged import by_stream
from syncd.store.rows import document, plain_row, rewritten
from syncd.tables import OF_KIND, UtcDateTime, backlog, cursors, watches

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Connection as Db
    from sqlalchemy import Table

    from syncd.store.merged import Key, Merged

Rows = list[tuple["Table", list[dict[str, Any]]]]
_THESE: Any = select(func.json_each(bindparam("these", type_=Text)).table_valued("value").c.value)
_THING = ["connection_id", "stream", "external_id"]


def rows_of(page: Merged) -> Rows:
    """Made outside of the transaction: it holds the only writer. In the order of the key, as the index has them."""
    made = []
    for kind, records in page.records.items():
        rows = [plain_row(kind, name, records[name]) for name in sorted(records)]
        made.append((OF_KIND[kind], rows))
    return made


def step_by_step(db: Db, connection_id: int, page: Merged, rows: Rows) -> Counts:
    """Store it all."""
    counts = Counts()
    its = {"connection_id": connection_id}
    for table, some in rows:
        counts += _written(db, table, some, {**its, "created_at": page.now, "updated_at": page.now}).of(table.name)
    for kind, ids in page.deletions.items():
        table = OF_KIND[kind]
        given = {"its": connection_id, "these": document(list(ids)), "now": page.now}
        counts += Counts(deleted=len(db.execute(_deleted(table), given).all())).of(table.name)
    _drop(db, cursors, connection_id, page.forgotten())
    _put(db, moved(), [{**its, **one, "updated_at": page.now} for one in page.moved()])
    _put(db, _announced(), [{**its, **one, "created_at": page.now} for one in page.coming()])
    if page.tried:
        found = attempts(db, connection_id, page.tried)
        _put(db, _tried(), [{**its, **one, "created_at": page.now} for one in page.waiting(found)])
    _drop(db, backlog, connection_id, page.resolved)
    _put(db, _watched(), [{**its, **one} for one in page.watched()])
    _drop(db, watches, connection_id, page.unwatched)
    return counts


def _written(db: Db, table: Table, rows: Sequence[Mapping[str, Any]], more: Mapping[str, Any]) -> Counts:
    """Write only what is new, changed or back again: an unchanged row costs no write."""
    given = {"its": more["connection_id"], "these": document([row["external_id"] for row in rows])}
    held: dict[str, str] = dict(db.execute(_held(table), given).all())
    fresh = [row for row in rows if held.get(row["external_id"]) != row["digest"]]
    _put(db, _upserted(table), [{**row, **more} for row in fresh])
    changed = sum(row["external_id"] in held for row in fresh)
    return Counts(added=len(fresh) - changed, changed=changed)


def _put(db: Db, statement: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        db.execute(statement, rows)


def _drop(db: Db, table: Table, connection_id: int, keys: Collection[Key]) -> None:
    for stream, ids in by_stream(keys).items():
        db.execute(_dropped(table), {"its": connection_id, "of": stream, "these": document(ids)})


def attempts(db: Db, connection_id: int, keys: Iterable[Key]) -> dict[Key, int]:
    """How often these things of the backlog were tried."""
    found: dict[Key, int] = {}
    for stream, ids in by_stream(keys).items():
        rows = db.execute(_attempts(), {"its": connection_id, "of": stream, "these": ids})
        found |= {(stream, name): tries for name, tries in rows}
    return found


# Made once: to make a statement costs more than to run it. Names that are no columns are of their conditions.


@cache
def _held(table: Table) -> Any:
    """The ids that are stored, each with its digest, or with none that there is where it is deleted."""
    digest = case((table.c.deleted_at.is_(None), table.c.digest), else_="")
    query = select(table.c.external_id, digest).where(table.c.connection_id == bindparam("its"))
    return query.where(table.c.external_id.in_(_THESE))


@cache
def _upserted(table: Table) -> Any:
    return rewritten(table, sqlite.insert(table))


@cache
def _deleted(table: Table) -> Any:
    return (
        update(table)
        .where(table.c.connection_id == bindparam("its"), table.c.external_id.in_(_THESE))
        .where(table.c.deleted_at.is_(None))
        .values(deleted_at=bindparam("now", type_=UtcDateTime))
        .returning(table.c.external_id)
    )


@cache
def _dropped(table: Table) -> Any:
    key = table.c.partition if table is cursors else table.c.external_id
    gone = delete(table).where(table.c.connection_id == bindparam("its"), table.c.stream == bindparam("of"))
    return gone.where(key.in_(_THESE))


@cache
def _attempts() -> Any:
    query = select(backlog.c.external_id, backlog.c.attempts).where(backlog.c.connection_id == bindparam("its"))
    return query.where(
        backlog.c.stream == bindparam("of"), backlog.c.external_id.in_(bindparam("these", expanding=True))
    )


@cache
def moved() -> Any:
    put = sqlite.insert(cursors)
    new = {name: put.excluded[name] for name in ("cursor", "updated_at")}
    return put.on_conflict_do_update(index_elements=["connection_id", "stream", "partition"], set_=new)


@cache
def _announced() -> Any:
    return sqlite.insert(backlog).on_conflict_do_nothing()


@cache
def _tried() -> Any:
    put = sqlite.insert(backlog)
    new = {name: put.excluded[name] for name in ("reason", "attempts", "next_try_at", "last_error")}
    return put.on_conflict_do_update(index_elements=_THING, set_=new)


@cache
def _watched() -> Any:
    put = sqlite.insert(watches)
    return put.on_conflict_do_update(index_elements=_THING, set_={"next_try_at": put.excluded.next_try_at})
