"""SQLite's connections. Each has a thread of its own, as aiosqlite makes it: there a transaction goes in one hop.

By itself SQLAlchemy hops there and back four times for each statement, and each hop costs more than SQLite does.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection
from sqlalchemy.util import await_

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection as SyncConnection
    from sqlalchemy import Engine

T = TypeVar("T")


class InThread(AsyncAdapt_aiosqlite_connection):
    """SQLAlchemy's own, to be awaited; but what `run` runs uses the file at once, for it is in the thread already."""

    __slots__ = ("_inside", "_rests")

    def __init__(self, dbapi: Any, connection: Any) -> None:
        super().__init__(dbapi, connection)
        self._inside = self._rests = False

    def cursor(self, server_side: bool = False) -> Any:
        if self._inside:
            return self._connection._conn.cursor()
        self._rests = False
        return super().cursor(server_side)

    def commit(self) -> None:
        self._connection._conn.commit() if self._inside else super().commit()

    def rollback(self) -> None:
        """The pool asks for one more when it is given back: no hop where `run` left no transaction."""
        if self._inside:
            self._connection._conn.rollback()
        elif not self._rests:
            super().rollback()

    async def run(self, work: Callable[[], T]) -> T:
        """What ``work`` answers, or raises, in the thread. Whoever is cut waits for its end all the same: until then
        nobody else may have the connection.
        """

        def inside() -> T:
            self._inside = True
            try:
                return work()
            finally:
                self._inside, self._rests = False, not self._connection._conn.in_transaction

        # As aiosqlite's `_execute` does, but no task: whoever cancels all tasks, as a loop's end does, would cancel the
        # wait for what is under way in the thread.
        if not self._connection._running:  # its thread would never come to it
            raise sqlite3.ProgrammingError("the connection is closed")
        hop = asyncio.get_running_loop().create_future()
        self._connection._tx.put_nowait((hop, partial(copy_context().run, inside)))
        try:
            return await asyncio.shield(hop)
        finally:
            while not hop.done():
                await _ended(hop)


async def _ended(hop: asyncio.Future[Any]) -> None:
    """Wait for it, whatever comes."""
    try:
        await asyncio.wait([hop])
    except asyncio.CancelledError:
        return  # a second one: the first is raised once it has ended


def in_thread(engine: Engine, work: Callable[[SyncConnection], T]) -> T:
    """What ``work`` answers, in one transaction and one hop; in a greenlet of SQLAlchemy's."""

    def begun() -> T:
        with connection.begin():
            return work(connection)

    with engine.connect() as connection:
        db: Any = connection.connection.dbapi_connection
        return await_(db.run(begun))  # type: ignore[no-any-return]
