"""Runs' claims and their ends as one statement each: PostgreSQL is asked once instead of five times for each run.

SQLite changes no rows in a ``WITH``, and is nowhere far away: there the same is done step by step (`runs_sqlite`).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, String, Text, bindparam, column, func, insert, literal, select, text, update
from sqlalchemy.dialects import postgresql

from syncd.policy import INTERRUPTED, RUNNING
from syncd.store.told import LOST
from syncd.tables import connections, cursors, runs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection as Db
    from sqlalchemy import Table

    from syncd.store.told import Told

# So long a row is waited for that somebody holds: less than PostgreSQL's second, after which a deadlock is looked for.
# It ends with the transaction, and is set before any row is locked: that row's part in the statement comes through it.
_IMPATIENT = text("set_config('lock_timeout', '250ms', true) IS NOT NULL")

RESTING = {"status": INTERRUPTED, "error_kind": INTERRUPTED, "error": "the daemon died"}  # of a dead daemon's runs


def _new(table: Table, names: Sequence[str]) -> dict[str, Any]:
    return {name: bindparam(f"{table.name}_{name}", type_=table.c[name].type) for name in names}


def new_values(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """What one of these statements is executed with, to set these columns."""
    return {f"{table.name}_{name}": value for name, value in values.items()}


@cache
def claiming(query: Any, columns: tuple[Any, ...]) -> Any:
    """Take what ``query`` finds (ids and leases of connections) and begin their runs; answers ``columns`` of each
    connection and its run's id. Executed with the query's values, and for the new ones with `new_values`.
    """
    found = query.cte("found")
    taken = (
        update(connections)
        .where(connections.c.id == found.c.id)
        .values(_new(connections, ("lease", "leased_until")))
        .returning(*columns)
        .cte("taken")
    )
    started_at = bindparam("runs_started_at", type_=runs.c.started_at.type)
    died = select(found.c.id).where(found.c.lease.is_not(None))
    left = update(runs).where(runs.c.connection_id.in_(died), runs.c.status == RUNNING)
    dead = left.values(**RESTING, finished_at=started_at).returning(runs.c.id).cte("dead")
    cycle_id = bindparam("runs_cycle_id", type_=runs.c.cycle_id.type)
    run = select(cycle_id, found.c.id, literal(RUNNING, runs.c.status.type), started_at)
    begun = (
        insert(runs)
        .from_select(["cycle_id", "connection_id", "status", "started_at"], run)
        .returning(runs.c.id.label("run_id"), runs.c.connection_id)
        .cte("begun")
    )
    return select(taken, begun.c.run_id).where(begun.c.connection_id == taken.c.id).add_cte(dead)


def end(db: Db, ended: Sequence[Told], *, patient: bool) -> set[int]:
    """Store the ends of these, which are alike; answers the runs whose connection it was.

    ``patient``: wait for a row that somebody holds as long as they do; else it is refused soon.
    """
    names, told = tuple(ended[0].of_connection), tuple(ended[0].of_run)
    rows = [
        {
            "its": one.its,
            "held": one.held,
            "run": one.run,
            **new_values(connections, one.of_connection),
            **new_values(runs, one.of_run),
        }
        for one in ended
    ]
    moved = [{"at": one.run, **new_values(cursors, move)} for one in ended for move in one.moves]
    values = {name: [row[name] for row in rows] for name in _ended_kinds(names, told)}
    if moved:
        values |= {name: [row[name] for row in moved] for name in _moved_kinds()}
    return set(db.scalars(_ending(names, told, moves=bool(moved), patient=patient), values))


@cache
def _ending(names: tuple[str, ...], told: tuple[str, ...], *, moves: bool, patient: bool) -> Any:
    """Set the columns ``names`` of connections whose leases are ours, and ``told`` of their runs, of the others' what
    `LOST` has; answers the runs whose connection it was. ``moves``: and store where some partitions resume.
    """
    each = select(_unnested(_ended_kinds(names, told)))
    ended = (each if patient else each.where(_IMPATIENT)).cte("ended")

    def new(table: Table, columns: Sequence[str]) -> dict[str, Any]:
        return {name: ended.c[f"{table.name}_{name}"] for name in columns}

    of_run = new(runs, told) | {"records": runs.c.records + ended.c.runs_records}

    mine = (
        update(connections)
        .where(connections.c.id == ended.c.its, connections.c.lease == ended.c.held)
        .values(new(connections, names))
        .returning(connections.c.id, ended.c.run)
        .cte("mine")
    )
    run = update(runs).where(runs.c.id == ended.c.run, runs.c.status == RUNNING)
    ours = ended.c.run.in_(select(mine.c.run))
    also = [run.where(ours).values(of_run).returning(runs.c.id).cte("run")]
    lost = {**of_run, **{name: literal(value, runs.c[name].type) for name, value in LOST.items()}}
    also.append(run.where(~ours).values(lost).returning(runs.c.id).cte("lost"))
    if moves:
        moved = _unnested(_moved_kinds())
        there = select(mine.c.id, *(moved.c[f"cursors_{name}"] for name in _PLACE)).where(mine.c.run == moved.c.at)
        put = postgresql.insert(cursors).from_select(["connection_id", *_PLACE], there)
        put = put.on_conflict_do_update(
            index_elements=["connection_id", "stream", "partition"],
            set_={"cursor": put.excluded.cursor, "updated_at": put.excluded.updated_at},
        )
        also.append(put.returning(cursors.c.connection_id).cte("put"))
    return select(mine.c.run).add_cte(*also)


_PLACE = ("stream", "partition", "cursor", "updated_at")


def _unnested(kinds: Mapping[str, Any]) -> Any:
    """Rows whose columns are executed with as arrays."""
    arrays = func.unnest(*(bindparam(name, type_=ARRAY(kind)) for name, kind in kinds.items()))
    return arrays.table_valued(*(column(name, kind) for name, kind in kinds.items())).render_derived()


def _ended_kinds(names: tuple[str, ...], told: tuple[str, ...]) -> dict[str, Any]:
    kinds: dict[str, Any] = {"its": connections.c.id.type, "held": connections.c.lease.type, "run": runs.c.id.type}
    for table, columns in ((connections, names), (runs, told)):
        kinds |= {f"{table.name}_{name}": table.c[name].type for name in columns}
    return _roomy(kinds)


def _moved_kinds() -> dict[str, Any]:
    return _roomy({"at": runs.c.id.type} | {f"cursors_{name}": cursors.c[name].type for name in _PLACE})


def _roomy(kinds: Mapping[str, Any]) -> dict[str, Any]:
    """A text that is too long for its column is refused there: an array of VARCHAR(32) would cut it short."""
    return {name: Text() if isinstance(kind, String) else kind for name, kind in kinds.items()}
