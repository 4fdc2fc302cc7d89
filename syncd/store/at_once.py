"""A run's claim and its end as one statement each: PostgreSQL is asked once instead of five times.

SQLite changes no rows in a ``WITH``, and is nowhere far away: there the same is done step by step, in one transaction.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, insert, literal, select, update
from sqlalchemy.dialects import postgresql

from syncd.policy import INTERRUPTED, RUNNING
from syncd.tables import connections, cursors, runs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Table

RESTING = {"status": INTERRUPTED, "error_kind": INTERRUPTED, "error": "the daemon died"}  # of a dead daemon's runs


def _new(table: Table, names: Sequence[str]) -> dict[str, Any]:
    return {name: bindparam(f"{table.name}_{name}", type_=table.c[name].type) for name in names}


def new_values(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """What one of these statements is executed with, to set these columns."""
    return {f"{table.name}_{name}": value for name, value in values.items()}


@cache
def claiming(query: Any, columns: tuple[Any, ...]) -> Any:
    """Take what ``query`` finds (the id and the lease of one connection) and begin its run; answers ``columns`` of the
    connection and the run's id. Executed with the query's values, and for the new ones with `new_values`.
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
    died = select(found.c.id).where(found.c.lease.is_not(None)).scalar_subquery()
    left = update(runs).where(runs.c.connection_id == died, runs.c.status == RUNNING)
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


@cache
def ending(names: tuple[str, ...], told: tuple[str, ...], *, moves: bool) -> Any:
    """Set the columns ``names`` of a connection whose lease is ours, and those of its run in any case; answers the
    connection's id where it was. ``moves``: and store where one partition resumes.
    """
    mine = (
        update(connections)
        .where(connections.c.id == bindparam("its"), connections.c.lease == bindparam("held"))
        .values(_new(connections, names))
        .returning(connections.c.id)
        .cte("mine")
    )
    run = update(runs).where(runs.c.id == bindparam("run"), runs.c.status == RUNNING)
    also = [run.values(_new(runs, told)).returning(runs.c.id).cte("run")]
    if moves:
        place = _new(cursors, ("stream", "partition", "cursor", "updated_at"))
        put = postgresql.insert(cursors).from_select(["connection_id", *place], select(mine.c.id, *place.values()))
        put = put.on_conflict_do_update(
            index_elements=["connection_id", "stream", "partition"],
            set_={"cursor": put.excluded.cursor, "updated_at": put.excluded.updated_at},
        )
        also.append(put.returning(cursors.c.connection_id).cte("put"))
    return select(mine.c.id).add_cte(*also)
