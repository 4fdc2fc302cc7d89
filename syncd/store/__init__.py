"""All SQL: `Store` is the only way to the database; besides migrations nothing else imports `tables`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncd.store.alerts import Alerts
from syncd.store.budgets import Budgets
from syncd.store.connections import LEASE, Connection, Connections, Line
from syncd.store.counts import Counts
from syncd.store.cycles import Cycles, Ended
from syncd.store.database import Database, SchemaError
from syncd.store.due import Due, Standing
from syncd.store.health import Health
from syncd.store.known import Known
from syncd.store.looks import Looks
from syncd.store.outbox import Delivery, Outbox
from syncd.store.pages import Move, Pages
from syncd.store.purges import Holding, Purges, Which
from syncd.store.renewals import Renewals
from syncd.store.seals import Rotation, Seals
from syncd.store.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from syncd.store.jobs import Jobs

__all__ = [
    "Connection",
    "Connections",
    "Counts",
    "Cycles",
    "Database",
    "Delivery",
    "Ended",
    "Holding",
    "Known",
    "Line",
    "Looks",
    "Move",
    "Pages",
    "Rotation",
    "SchemaError",
    "Standing",
    "Store",
    "Which",
]


class Store:
    """The database by what is done with it.

    ``now`` is the process's clock (aware UTC); ``lease``: for how long a claimed connection is ours without a page.
    ``jobs``: the queue from which workers take, None where this process runs all itself.
    """

    def __init__(
        self, database: Database, now: Callable[[], datetime], lease: timedelta = LEASE, jobs: Jobs | None = None
    ) -> None:
        self.database = database
        self.jobs = jobs
        self.lease = lease
        self.alerts = Alerts(database, now)
        self.budgets = Budgets(database, now)
        self.connections = Connections(database, now, lease)
        self.cycles = Cycles(database, now, lease)
        self.due = Due(database, now, lease)
        self.health = Health(database, now, lease)
        self.looks = Looks(database, now)
        self.outbox = Outbox(database, now, lease)
        self.pages = Pages(database, now, lease)
        self.purges = Purges(database, now)
        self.renewals = Renewals(database, now)
        self.seals = Seals(database)
        self.status = Status(database, now)
