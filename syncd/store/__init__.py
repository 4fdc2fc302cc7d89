"""All SQL: `Store` is the only way to the database; besides migrations nothing else imports `tables`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncd.store.budgets import Budgets
from syncd.store.connections import LEASE, Connection, Connections, Line
from syncd.store.cycles import Cycles, Ended
from syncd.store.database import Database, SchemaError
from syncd.store.looks import Looks
from syncd.store.pages import Counts, Pages
from syncd.store.purges import Holding, Purges, Which
from syncd.store.renewals import Renewals
from syncd.store.seals import Rotation, Seals
from syncd.store.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

__all__ = [
    "Connection",
    "Connections",
    "Counts",
    "Cycles",
    "Database",
    "Ended",
    "Holding",
    "Line",
    "Looks",
    "Pages",
    "Rotation",
    "SchemaError",
    "Store",
    "Which",
]


class Store:
    """The database by what is done with it.

    ``now`` is the process's clock (aware UTC); ``lease``: for how long a claimed connection is ours without a page.
    """

    def __init__(self, database: Database, now: Callable[[], datetime], lease: timedelta = LEASE) -> None:
        self.database = database
        self.lease = lease
        self.budgets = Budgets(database, now)
        self.connections = Connections(database, now, lease)
        self.cycles = Cycles(database, now, lease)
        self.looks = Looks(database, now)
        self.pages = Pages(database, now, lease)
        self.purges = Purges(database, now)
        self.renewals = Renewals(database, now)
        self.seals = Seals(database)
        self.status = Status(database, now)
