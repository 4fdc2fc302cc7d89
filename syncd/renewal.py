"""Renewing a connection's tokens: one process at a time, and stored before they are used."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError

from syncd.errors import Transient
from syncd.store.database import is_outage
from syncd.store.renewals import RIGHT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from syncd.credentials import Vault
    from syncd.store import Connection, Store

Unsaved = dict[int, tuple[str, "Mapping[str, Any]"]]

_POLL_S = 0.1
_LONGEST_POLL_S = 1.0
_TRIES_S = (0.5, 2.0)  # a database that is locked or starts anew mostly is back by then


class Renewal:
    """How one link renews the stored tokens of its connection.

    ``lease``: of the run that it is for. ``patience_s``: how long to wait for another who renews them. ``unsaved``: of
    this process, connection id → the stored text and what is to replace it: tokens that came while the database was
    away, which nobody else has and the vendor gives no second time.
    """

    def __init__(
        self,
        store: Store,
        vault: Vault,
        connection: Connection,
        *,
        lease: str | None,
        patience_s: float,
        unsaved: Unsaved,
    ) -> None:
        self._store, self._vault, self._id, self._lease = store, vault, connection.id, lease
        self._patience_s, self._unsaved = patience_s, unsaved
        self._held = str(connection.sealed)  # as the credentials in use were stored
        self._holder = ""
        self._until_s = 0.0

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Mapping[str, Any]]:
        """Hold the right to renew; gives the credentials as they are stored by then, which another may have renewed.

        Raises `Transient` when another holds it for longer than we wait, `LeaseLost` when the connection is not ours.
        """
        holder = self._holder = uuid4().hex
        try:
            stored = await self._taken()
        except BaseException:
            self._holder = ""
            raise
        keeper = asyncio.create_task(self._keep())
        try:
            yield await self._late(stored)
        finally:
            keeper.cancel()
            self._holder = ""
            with suppress(SQLAlchemyError, OSError):  # it runs out by itself
                await self._store.renewals.release(self._id, holder)

    async def save(self, renewed: Mapping[str, Any]) -> None:
        """Store renewed credentials in place of those in use. Raises `LeaseLost` when they were replaced meanwhile."""
        sealed = self._vault.seal(self._id, renewed)
        for wait_s in (*_TRIES_S, None):
            try:
                if self._holder and not self.is_ours():
                    await self._taken()  # who has it now may have spent the same token: then theirs are the newer ones
                await self._store.renewals.save(self._id, sealed, instead_of=self._is_held)
                break
            except (SQLAlchemyError, OSError) as error:
                if not is_outage(error) or wait_s is None:
                    self._unsaved[self._id] = self._held, renewed
                    raise
                await asyncio.sleep(wait_s)
        self._held = sealed

    def ours(self) -> None:
        """Raises `Transient` while we renew and the right may be another's: we were frozen, or could not keep it."""
        if self._holder and not self.is_ours():
            raise Transient("another process may renew the token by now")

    def is_ours(self) -> bool:
        return time.monotonic() < self._until_s

    async def _taken(self) -> str:
        """Wait for the right; answers what is stored."""
        ends, poll_s = time.monotonic() + self._patience_s, _POLL_S
        while True:
            began = time.monotonic()
            if stored := await self._store.renewals.take(self._id, self._holder, self._lease):
                self._until_s = began + RIGHT.total_seconds()
                return stored
            if time.monotonic() + poll_s > ends:
                raise Transient("another process renews the token and has not ended")
            await asyncio.sleep(poll_s * random.uniform(0.5, 1))
            poll_s = min(poll_s * 2, _LONGEST_POLL_S)

    async def _keep(self) -> None:
        """Keep the right while the vendor is slow."""
        holder = self._holder
        while True:
            await asyncio.sleep(RIGHT.total_seconds() / 3)
            began = time.monotonic()
            with suppress(SQLAlchemyError, OSError):  # tried again
                if await self._store.renewals.keep(self._id, holder):
                    self._until_s = began + RIGHT.total_seconds()

    async def _late(self, stored: str) -> Mapping[str, Any]:
        """What is stored, after what could not be stored when it came."""
        spent, renewed = self._unsaved.pop(self._id, ("", None))
        self._held = stored
        if renewed is None or not self._vault.same(self._id, spent, stored):
            return self._vault.open(self._id, stored)
        await self.save(renewed)
        return renewed

    def _is_held(self, stored: str) -> bool:
        return self._vault.same(self._id, stored, self._held)
