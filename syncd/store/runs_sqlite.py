"""Runs' claims and their ends, many at once, step by step: in a transaction that holds SQLite's only writer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, bindparam, func, insert, literal, select, update

from syncd.policy import RUNNING
from syncd.store.checkpoint_sqlite import moved
from syncd.store.rows import document
from syncd.store.told import LOST
from syncd.tables import connections, runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection as Db

    from syncd.store.told import Told

# Made once: to make a statement costs more than to run it. Names that are no columns are of their conditions.
_THESE: Any = func.json_each(bindparam("these", type_=Text)).table_valued("value").c.value
_BEGIN = (
    insert(runs)
    .from_select(
        ["cycle_id", "connection_id", "status", "started_at"],
        select(
            bindparam("cycle_id", type_=runs.c.cycle_id.type),
            _THESE,
            literal(RUNNING, runs.c.status.type),
            bindparam("started_at", type_=runs.c.started_at.type),
        ),
    )
    .returning(runs.c.connection_id, runs.c.id)
)
_LEASES = select(connections.c.id, connections.c.lease).where(connections.c.id.in_(select(_THESE)))
_END = update(connections).where(connections.c.id == bindparam("its"), connections.c.lease == bindparam("held"))
_END_RUN = (
    update(runs)
    .where(runs.c.id == bindparam("run"), runs.c.status == bindparam("still"))
    .values(records=runs.c.records + bindparam("more"))
)


def begin(db: Db, ids: Sequence[int], **run: Any) -> dict[int, int]:
    """Begin a run of each of these connections; answers their ids. ``run``: its ``cycle_id`` and ``started_at``."""
    return {row[0]: row[1] for row in db.execute(_BEGIN, {"these": document(ids), **run})}


def end(db: Db, ended: Sequence[Told]) -> set[int]:
    """Store the ends of these, which are alike; answers the runs whose connection it was."""
    leases = dict(db.execute(_LEASES, {"these": document([one.its for one in ended])}).all())
    mine = [one for one in ended if leases.get(one.its) == one.held]
    if mine:
        db.execute(_END, [{"its": one.its, "held": one.held, **one.of_connection} for one in mine])
    if moves := [{"connection_id": one.its, **move} for one in mine for move in one.moves]:
        db.execute(moved(), moves)
    ours = {one.run for one in mine}
    told = ((one.run, one.of_run if one.run in ours else {**one.of_run, **LOST}) for one in ended)
    rows = ((run, {name: value for name, value in of_run.items() if name != "records"}, of_run) for run, of_run in told)
    db.execute(_END_RUN, [{"run": run, "still": RUNNING, "more": of["records"], **new} for run, new, of in rows])
    return ours
