"""Renewing a connection's tokens: one process at a time, and stored before they are used."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import structlog
from sqlalchemy.exc import SQLAlchemyError

from syncd.errors import LeaseLost, SealError, Transient
from syncd.store.database import is_outage
from syncd.store.renewals import RIGHT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from syncd.credentials import Vault
    from syncd.store import Connection, Store

log = structlog.get_logger(__name__)

_POLL_S = 0.1
_LONGEST_POLL_S = 1.0
_TRIES_S = (0.5, 2.0)  # a database that is locked or starts anew mostly is back by then
_AGAIN_S = 1.0
_LAST_S = 3.0  # a cycle that begins and a process that ends wait no longer


@dataclass(frozen=True, slots=True)
class Kept:
    """Tokens to store. ``holder``: of the right to renew, which it keeps. ``spent``: the stored text they replace."""

    connection: Connection
    holder: str
    spent: str
    renewed: Mapping[str, Any] = field(repr=False)


class Unsaved:
    """Tokens of this process that could not be stored when they came: nobody else has them, and the vendor gives them
    no second time.

    Stored as soon as the database answers, in a task of its own: whoever else is to renew them would send the token
    that is spent, and be refused.
    """

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store, self._vault = store, vault
        self._kept: dict[int, Kept] = {}
        self._storing: asyncio.Task[None] | None = None

    def keep(self, kept: Kept) -> None:
        self._kept[kept.connection.id] = kept
        if self._storing is None or self._storing.done():
            log.warning("token.unsaved", connection=kept.connection.id)
            self._storing = asyncio.create_task(self._store_all(), name="unsaved tokens")

    def of(self, connection_id: int) -> Kept | None:
        return self._kept.get(connection_id)

    def taken(self, connection_id: int) -> Kept | None:
        """The same, which is the caller's now."""
        return self._kept.pop(connection_id, None)

    async def stored(self, within_s: float = _LAST_S) -> bool:
        """Wait until nothing is left to store; False when that takes longer."""
        if self._storing is None:
            return True
        return bool((await asyncio.wait([self._storing], timeout=within_s))[0])

    async def close(self, within_s: float = _LAST_S) -> None:
        """The process ends: what cannot be stored now is lost, and its connection will wait for a person."""
        if self._storing is not None and not await self.stored(within_s):
            self._storing.cancel()
            await asyncio.wait([self._storing], timeout=1.0)
            log.error("token.lost", connections=sorted(self._kept))

    async def _store_all(self) -> None:
        while self._kept:
            await asyncio.sleep(_AGAIN_S)
            for kept in list(self._kept.values()):
                await self._store_one(kept)

    async def _store_one(self, kept: Kept) -> None:
        its = kept.connection.id
        renewal = Renewal(self._store, self._vault, kept.connection, lease=None, patience_s=0.0, unsaved=self)
        try:
            async with renewal.alone(kept.holder) as stored:  # which stores them first
                if stored is kept.renewed:
                    log.info("token.saved", connection=its)
        except (LeaseLost, SealError):
            self.taken(its)  # erased or replaced meanwhile
        except Exception as error:  # noqa: BLE001 - what it may be: it is tried again, and so are the others
            log.debug("token.not_saved", connection=its, error=type(error).__name__)


class Renewal:
    """How one link renews the stored tokens of its connection.

    ``lease``: of the run that it is for. ``patience_s``: how long to wait for another who renews them. ``unsaved``: of
    this process.
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
        self._store, self._vault, self._lease = store, vault, lease
        self._connection, self._id = connection, connection.id
        self._patience_s, self._unsaved = patience_s, unsaved
        self._held = str(connection.sealed)  # as the credentials in use were stored
        self._holder = ""
        self._until_s = 0.0

    @asynccontextmanager
    async def alone(self, holder: str = "") -> AsyncIterator[Mapping[str, Any]]:
        """Hold the right to renew; gives the credentials as they are stored by then, which another may have renewed.

        Raises `Transient` when another holds it for longer than we wait, `LeaseLost` when the connection is not ours.
        """
        holder = self._holder = holder or uuid4().hex
        try:
            stored = await self._taken(self._lease)
        except BaseException:
            self._holder = ""
            raise
        keeper = asyncio.create_task(self._keep())
        try:
            yield await self._late(stored)
        finally:
            keeper.cancel()
            self._holder = ""
            unsaved = self._unsaved.of(self._id)
            if unsaved is None or unsaved.holder != holder:  # else nobody else shall send what is spent
                with suppress(SQLAlchemyError, OSError):  # it runs out by itself
                    await self._store.renewals.release(self._id, holder)

    async def save(self, renewed: Mapping[str, Any]) -> None:
        """Store renewed credentials in place of those in use. Raises `LeaseLost` when they were replaced meanwhile."""
        sealed = self._vault.seal(self._id, renewed)
        try:
            await self._saved(sealed)
        except LeaseLost:
            raise
        except BaseException:  # cut as well
            self._unsaved.keep(Kept(self._connection, self._holder or uuid4().hex, self._held, renewed))
            raise
        self._held = sealed

    async def _saved(self, sealed: str) -> None:
        for wait_s in (*_TRIES_S, None):
            try:
                if self._holder and not self.is_ours():
                    # Who has it now may have spent the same token: then theirs are the newer ones. The lease may be
                    # another's as well, as `Renewals.save` has it.
                    await self._taken(None)
                await self._store.renewals.save(self._id, sealed, instead_of=self._is_held)
                return
            except (SQLAlchemyError, OSError) as error:
                if not is_outage(error) or wait_s is None:
                    raise
                await asyncio.sleep(wait_s)

    def ours(self) -> None:
        """Raises `Transient` while we renew and the right may be another's: we were frozen, or could not keep it."""
        if self._holder and not self.is_ours():
            raise Transient("another process may renew the token by now")

    def is_ours(self) -> bool:
        return time.monotonic() < self._until_s

    async def _taken(self, lease: str | None) -> str:
        """Wait for the right; answers what is stored."""
        ends, poll_s = time.monotonic() + self._patience_s, _POLL_S
        while True:
            began = time.monotonic()
            if stored := await self._store.renewals.take(self._id, self._holder, lease):
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
        late = self._unsaved.taken(self._id)
        self._held = stored
        if late is None or not self._vault.same(self._id, late.spent, stored):
            return self._vault.open(self._id, stored)
        await self.save(late.renewed)
        return late.renewed

    def _is_held(self, stored: str) -> bool:
        return self._vault.same(self._id, stored, self._held)
