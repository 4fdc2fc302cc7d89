"""Two processes that renew the tokens of one connection, and a vendor whose refresh tokens are good for one use.

Each "process" has a store, keys, buckets and an engine of its own; the database is all they share.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from syncd.credentials import Vault, generate_key
from syncd.errors import AuthError
from syncd.http import Link
from syncd.store import Database, Line, Store
from syncd.tables import connections
from tests.conftest import Clock
from tests.scripted import Bench, pages, source


@dataclass
class Vendor:
    """Its refresh tokens are good for one use: refresh0 buys access1 and refresh1, and so on. ``good``: the access token it takes."""

    good: str = "access0"
    sent: list[str] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    async def refresh(self, link: Link) -> Mapping[str, Any]:
        async def attempt() -> str:
            return str(link.credentials["refresh_token"])

        token = await link.call("token", attempt, draws={}, renews=False)
        spent = token in self.sent
        self.sent.append(token)
        self.asked.set()
        await self.answers.wait()
        if spent:
            raise AuthError("invalid_grant")
        number = int(token.removeprefix("refresh")) + 1
        self.good = f"access{number}"
        return {"access_token": self.good, "refresh_token": f"refresh{number}"}

    async def ask(self, link: Link) -> str:
        """A call that needs a token; answers the one it was made with."""

        async def attempt() -> str:
            token = await link.access_token()
            if token != self.good:
                raise AuthError("token_expired")
            return token

        return await link.call("method", attempt)


class Two:
    """Two processes on one database, with one connection, whose access token was spent from the start."""

    def __init__(self, stores: list[Store], clock: Clock) -> None:
        self.vendor = Vendor()
        self.vendor.answers.set()
        self.clock = clock
        self.begun: list[asyncio.Task[Any]] = []
        vault = Vault([generate_key()])
        self.benches = [Bench(store, source(pages()), clock, vault=vault) for store in stores]
        self.store = stores[0]

    async def link(self, of: int = 0, *, lease: str | None = None, patience_s: float = 5.0) -> Link:
        """A way out as it is made now, with what is stored now."""
        bench = self.benches[of]
        connection = await bench.store.connections.get(1)
        assert connection is not None
        known = replace(bench.engine.plans["slack"], patience_s=patience_s)
        link = bench.engine.runs.link(known, connection, bench.vault.open(1, connection.sealed), lease=lease)
        link.refresh = lambda: self.vendor.refresh(link)
        return link

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        self.begun.append(asyncio.create_task(work))
        return self.begun[-1]

    async def end(self) -> None:
        """What a failing test left running would outlive its database."""
        for bench in self.benches:
            await bench.engine.runs.unsaved.close()
        self.vendor.answers.set()
        for task in self.begun:
            task.cancel()
        await asyncio.gather(*self.begun, return_exceptions=True)

    async def put(self) -> None:
        held = {"access_token": "access0", "refresh_token": "refresh0"}
        line = Line(workspace_id="acme", source="slack", credentials=held)
        await self.store.connections.put([line], self.benches[0].vault.seal)

    async def set(self, **values: Any) -> None:
        async with self.store.database.write() as session:
            await session.execute(update(connections).values(**values))

    async def row(self) -> Any:
        return (await self.benches[0].rows("connections"))[0]

    async def stored(self) -> None:
        """Wait until the first process has no tokens left that it could not store."""
        assert await self.benches[0].engine.runs.unsaved.stored(5.0)

    async def held(self) -> dict[str, Any]:
        return self.benches[0].vault.open(1, (await self.row()).credentials)


@pytest_asyncio.fixture
async def two(database_url: str, clock: Clock) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        databases = [Database(database_url) for _ in range(2)]
        for database in databases:
            stack.push_async_callback(database.close)
        made = Two([Store(database, clock) for database in databases], clock)
        await made.put()
        made.vendor.good = "nobody has it yet"
        stack.push_async_callback(made.end)
        yield made


NEW = {"access_token": "access1", "refresh_token": "refresh1"}


class Away:
    """The database answers one process, but stores no tokens for it until it is ``back``."""

    def __init__(self, two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("syncd.renewal._TRIES_S", ())
        self._save, self.is_back = two.store.renewals.save, False
        monkeypatch.setattr(two.store.renewals, "save", self.save)

    async def save(self, *given: Any, **more: Any) -> None:
        if not self.is_back:
            raise OperationalError("", {}, Exception("database is locked"))
        await self._save(*given, **more)
