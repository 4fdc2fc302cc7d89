"""Daemons that only schedule, and workers, over one real queue: each with an engine of its own on a scripted source."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest_asyncio
from sqlalchemy import text

from syncd.credentials import Vault, generate_key
from syncd.queue import Queue
from syncd.source import Source
from syncd.store import Database, Store
from syncd.store.jobs import Jobs
from syncd.worker import Worker
from tests.scripted import Bench

SCHEMA = "syncd_queue"
AT_MOST_S = 60
KIND = os.environ.get("SYNCD_KIND", "local")  # the engine's, of the suites that can be run in either
QUEUED = KIND == "pgqueuer"
DATABASES = ["postgres"] if QUEUED else ["sqlite", "postgres"]


@pytest_asyncio.fixture
async def queue_url(postgres_url: str) -> AsyncIterator[str]:
    """A migrated PostgreSQL database with a queue in it."""
    async with queue_in(postgres_url):
        yield postgres_url


@asynccontextmanager
async def queue_in(url: str) -> AsyncIterator[None]:
    """Have a queue in a migrated PostgreSQL database."""
    database = Database(url)
    await Jobs(database, SCHEMA, timedelta(seconds=30)).install()
    try:
        yield
    finally:
        await forget(database)
        await database.close()


async def forget(database: Database) -> None:
    """Take the queue's schema away: the database serves another test."""
    async with database.write() as session:
        await session.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))


class Floor:
    """``scheduler``: a daemon that only schedules. ``worker()`` makes another worker, with a store of its own."""

    def __init__(
        self, stack: AsyncExitStack, url: str, scripted: Source, lease: timedelta, heartbeat: timedelta
    ) -> None:
        self._stack, self._url, self._scripted = stack, url, scripted
        self._lease, self._heartbeat, self._vault = lease, heartbeat, Vault([generate_key()])
        self.scheduler = self.bench(schedules=True)
        self.store = self.scheduler.store

    def _store(self, now: Callable[[], datetime] | None) -> tuple[Store, Jobs]:
        database = Database(self._url)
        self._stack.push_async_callback(database.close)
        jobs = Jobs(database, SCHEMA, self._heartbeat)
        return Store(database, now or (lambda: datetime.now(UTC)), self._lease, jobs), jobs

    def bench(self, *, schedules: bool = False, now: Callable[[], datetime] | None = None, **changes: Any) -> Bench:
        store, jobs = self._store(now)
        queue: dict[str, Any] = {"dispatch": partial(Queue, store, jobs)} if schedules else {}
        return Bench(store, self._scripted, now, vault=self._vault, **queue, **changes)

    def worker(self, **changes: Any) -> tuple[Worker, Bench]:
        """Not started yet; drained at the end."""
        bench = self.bench(**changes)
        assert bench.store.jobs is not None
        worker = Worker(bench.engine, bench.store, bench.store.jobs, sources=["slack"])
        self._stack.push_async_callback(worker.drain, 5.0)
        return worker, bench

    def works(self, **changes: Any) -> Bench:
        worker, bench = self.worker(**changes)
        worker.start()
        return bench


@asynccontextmanager
async def floor(
    url: str,
    scripted: Source,
    *workspaces: str,
    lease: timedelta = timedelta(minutes=5),
    heartbeat: timedelta = timedelta(seconds=30),
) -> AsyncIterator[Floor]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(AT_MOST_S))  # a cycle that nobody ends would wait for ever
        made = Floor(stack, url, scripted, lease, heartbeat)
        await made.scheduler.connect(*workspaces)
        yield made
