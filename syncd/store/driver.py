"""PgQueuer's way to the database, through the pool that is there: patient with a database that is away.

Nothing LISTENs. Who waits for jobs asks once a second, which goes through any pooler and has no connection that dies
unseen; what happens in this process wakes it at once (`wake`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

import asyncpg
import orjson
import structlog
from sqlalchemy.exc import SQLAlchemyError

from syncd.store.database import database_words, is_outage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from syncd.store.database import Database

T = TypeVar("T")

log = structlog.get_logger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 2.0
_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,  # too many connections among them
)


class Driver:
    """As PgQueuer's `Driver` has it. ``shutdown``: set when nobody shall wait for the database any more."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._shutdown = asyncio.Event()
        self._heard: dict[str, list[Callable[[str | bytes | bytearray], None]]] = {}
        self._away = False

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        return [dict(row) for row in await self._patiently(lambda db: db.fetch(query, *args))]

    async def execute(self, query: str, *args: object) -> str:
        return str(await self._patiently(lambda db: db.execute(query, *args)))

    async def _patiently(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        """Ask until the database answers. Each of PgQueuer's statements may be made twice: a job that was picked by
        one whose answer was lost is picked anew once its heartbeat is old.
        """
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                answer = await self._once(ask)
            except (OSError, SQLAlchemyError, *_AWAY) as error:
                away = isinstance(error, _AWAY) or is_outage(error)
                if not away or self._shutdown.is_set():
                    raise
                if not self._away:
                    self._away = True
                    log.warning("queue.unreachable", error=database_words(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._shutdown.wait(), wait_s)
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
            else:
                if self._away:
                    self._away = False
                    log.info("queue.reached")
                return answer

    async def _once(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        async with self._database.engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            try:
                return await ask(raw)
            except BaseException:
                await connection.invalidate()  # asyncpg was used past SQLAlchemy, which cannot tell its state
                raise

    # ── what is heard ───────────────────────────────────────────────────────────────────────────────────────────────

    async def add_listener(self, channel: str, callback: Callable[[str | bytes | bytearray], None]) -> None:
        self._heard.setdefault(channel, []).append(callback)

    async def remove_listener(self, channel: str, callback: Callable[[str | bytes | bytearray], None]) -> None:
        self._heard[channel].remove(callback)

    async def notify(self, channel: str, payload: str) -> None:
        """To ourselves: PgQueuer only asks so whether it still hears."""
        self._tell(channel, payload)

    def wake(self, channel: str) -> None:
        """Let who waits for a job look now."""
        event = {"channel": channel, "sent_at": datetime.now(UTC), "type": "table_changed_event"}
        self._tell(channel, orjson.dumps({**event, "operation": "update", "table": ""}))

    def _tell(self, channel: str, payload: str | bytes) -> None:
        for callback in self._heard.get(channel, ()):
            callback(payload)

    @property
    def shutdown(self) -> asyncio.Event:
        return self._shutdown

    @property
    def tm(self) -> Any:
        from pgqueuer.core.tm import TaskManager

        return TaskManager()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The pool is the database's, who closes it."""
