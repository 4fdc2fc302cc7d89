"""The right to renew a connection's tokens, and the renewed ones."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, select, true, update

from syncd.errors import LeaseLost
from syncd.policy import NEEDS_REAUTH, OK
from syncd.tables import connections

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncSession

    from syncd.store.database import Database

RIGHT = timedelta(seconds=30)  # kept while it is used; a dead holder's is free after it


class Renewals:
    """A refresh token may be good for one use: of all tasks and processes one at a time may send a connection's."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    async def take(self, connection_id: int, holder: str, lease: str | None) -> str | None:
        """The stored credentials when the right is ``holder``'s now; None while it is another's.

        ``lease``: of the run that asks; None: it is none. Raises `LeaseLost` when the connection is no longer that
        run's, or has no credentials.
        """
        of = connections.c
        mine = true() if lease is None else of.lease == lease
        query = select(of.credentials, of.renewing, of.renewing_until).where(of.id == connection_id, mine)
        async with self._database.read() as session:  # those who wait look often: a look takes no lock
            row = (await session.execute(query)).one_or_none()
            now = await self._time(session)
        if row is None or row.credentials is None:
            raise LeaseLost
        if not _is_free(row, holder, now):
            return None
        taking = _set(connection_id, renewing=holder, renewing_until=now + RIGHT).where(mine, _unmoved(row))
        async with self._database.write() as session:
            return (await session.execute(taking.returning(of.credentials))).scalar_one_or_none()

    async def keep(self, connection_id: int, holder: str) -> bool:
        """Hold the right for another `RIGHT`; False when it is another's."""
        async with self._database.write() as session:
            keeping = _set(connection_id, renewing_until=await self._time(session) + RIGHT)
            keeping = keeping.where(connections.c.renewing == holder).returning(connections.c.id)
            return (await session.execute(keeping)).one_or_none() is not None

    async def release(self, connection_id: int, holder: str) -> None:
        async with self._database.write() as session:
            free = _set(connection_id, renewing=None, renewing_until=None)
            await session.execute(free.where(connections.c.renewing == holder))

    async def _time(self, session: AsyncSession) -> datetime:
        """The database's: the clocks of several machines may differ by more than so short a right."""
        if self._database.is_sqlite:
            return self._now()  # all who share the file share the machine
        at: datetime = (await session.execute(select(func.now()))).scalar_one()
        return at

    async def save(self, connection_id: int, sealed: str, *, instead_of: Callable[[str], bool]) -> None:
        """Store renewed credentials. Raises `LeaseLost` when they were replaced or erased meanwhile.

        ``instead_of(the stored text)`` must say that it holds what was renewed, sealed anew meanwhile or not. A run
        whose lease ran out saves them too: the vendor takes no others any more. Tokens that came wake a connection that
        waits for new ones.
        """
        held = (
            select(connections.c.credentials, connections.c.status)
            .where(connections.c.id == connection_id)
            .with_for_update()
        )
        now = self._now()
        values: dict[str, Any] = {"credentials": sealed, "updated_at": now}
        async with self._database.write() as session:
            row = (await session.execute(held)).one_or_none()
            if row is None or row.credentials is None or not instead_of(row.credentials):
                raise LeaseLost
            if row.status == NEEDS_REAUTH:
                values |= {"status": OK, "status_since": now, "failures": 0, "next_sync_at": now}
            await session.execute(_set(connection_id, **values))


def _is_free(row: Any, holder: str, now: datetime) -> bool:
    """No right is longer than `RIGHT`: one that is was taken before the clock was set back."""
    if row.renewing in {None, holder}:
        return True
    return not now < row.renewing_until <= now + 2 * RIGHT


def _unmoved(row: Any) -> ColumnElement[bool]:
    """That nobody took or kept the right since the look at it."""
    held, until = connections.c.renewing, connections.c.renewing_until
    if row.renewing is None:
        return held.is_(None)
    return and_(held == row.renewing, until == row.renewing_until)


def _set(connection_id: int, **values: Any) -> Any:
    return update(connections).where(connections.c.id == connection_id).values(**values)
