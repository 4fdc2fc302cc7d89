"""All SQL: `Store` is the only way to the database; besides migrations nothing else imports `tables`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncd.store.connections import LEASE, Connection, Connections, Line
from syncd.store.cycles import Cycles, Ended
from syncd.store.database import Database, SchemaError
from syncd.store.looks import Looks
from syncd.store.pages import Counts, Pages
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
    "Line",
    "Looks",
    "Pages",
    "SchemaError",
    "Store",
]


class Store:
    """The database by what is done with it.

    ``now`` is the process's clock (aware UTC); ``lease``: for how long a claimed connection is ours without a page.
    """

    def __init__(self, database: Database, now: Callable[[], datetime], lease: timedelta = LEASE) -> None:
        self.database = database
        self.lease = lease
        self.connections = Connections(database, now, lease)
        self.cycles = Cycles(database, now, lease)
        self.looks = Looks(database, now)
        self.pages = Pages(database, now, lease)
        self.status = Status(database, now)
