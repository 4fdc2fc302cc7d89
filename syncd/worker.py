"""Runs what cycles of any daemon put into the queue, through the very same engine.

The queue is not trusted: a job that comes twice, late, or after its connection was paused finds nothing to claim. A job
whose connection a dead worker still has the lease of waits until that is over.
"""

from __future__ import annotations

import asyncio
import os
import platform
import random
import uuid
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.ports.repository import EntrypointExecutionParameter
from sqlalchemy.exc import SQLAlchemyError

from syncd.dispatch import Cycle
from syncd.policy import INTERRUPTED, OK, RUNNING, Draining
from syncd.runs import words
from syncd.store.database import is_outage
from syncd.store.driver import Driver
from syncd.store.due import MOST_TRIES
from syncd.store.jobs import Order, entrypoint

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection
    from datetime import datetime

    from pgqueuer.domain.models import Job

    from syncd.engine import Engine
    from syncd.slots import Slots
    from syncd.store import Standing, Store
    from syncd.store.jobs import Jobs

log = structlog.get_logger(__name__)

_ASK_S = 1.0  # how often a worker that has places free asks for jobs
_GATHER_S = 0.02
_AGAIN = timedelta(seconds=1)
_OUTAGE = timedelta(seconds=5)
_MOST_AGAIN = 6  # waits, each twice the last, for a row that is locked: a frozen process holds it for half a minute
_CYCLES = 100  # of which a worker knows whether the vendor was away


class Worker:
    """Takes the jobs of ``sources`` out of ``jobs``, the queue of ``store``."""

    def __init__(self, engine: Engine, store: Store, jobs: Jobs, *, sources: Collection[str]) -> None:
        self._engine, self._store, self._jobs = engine, store, jobs
        self._sources = list(sources)
        self._managers: dict[str, _Manager] = {}
        self._keepers: set[asyncio.Task[None]] = set()
        self._running: set[asyncio.Task[Any]] = set()
        self._cycles: OrderedDict[int, Cycle] = OrderedDict()
        self._stopping = asyncio.Event()
        self._alive: asyncio.Task[None] | None = None
        self.id, self.name = uuid.uuid4().hex, f"{platform.node()}/{os.getpid()}"

    def start(self) -> None:
        """Take jobs from now on."""
        self._keepers = {asyncio.create_task(self._keep(name), name=f"jobs of {name}") for name in self._sources}
        self._alive = asyncio.create_task(self._tell_alive())

    def check(self) -> str:
        """For /healthz: ``ok``, or what is wrong."""
        down = [name for name in self._sources if name not in self._managers]
        return f"takes no jobs of {', '.join(down)}" if down else "ok"

    async def drain(self, grace_s: float) -> None:
        """Take no more jobs and stop at page boundaries; what is not there within ``grace_s`` is cut.

        What did not come to its end goes back into the queue, for another worker in the same cycle.
        """
        self._engine.runs.draining = True
        self._stopping.set()
        for manager in self._managers.values():
            manager.shutdown.set()
        late = set(self._keepers)
        if late:
            _, late = await asyncio.wait(late, timeout=grace_s)
        if late:
            log.warning("drain.cut", jobs=len(self._running))
            for job in self._running:
                job.cancel()
            _, late = await asyncio.wait(late, timeout=10)
        for manager in self._managers.values():
            manager.driver.shutdown.set()  # and no longer wait for a database that is away
        if late:
            _, late = await asyncio.wait(late, timeout=2)
        for one in [*late, *([self._alive] if self._alive else [])]:
            one.cancel()
            await asyncio.wait([one], timeout=1)
        with suppress(SQLAlchemyError, OSError):
            await self._jobs.gone(self.id)

    # ── taking jobs ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self, source: str) -> None:
        """Have a manager of the source's jobs at work, until we stop; one that failed is followed by another."""
        slots = self._engine.slots[source]
        while not self._stopping.is_set():
            driver = Driver(self._store.database)
            manager = _Manager(self._jobs.queries(driver), slots=slots, driver=driver)
            manager.entrypoint(entrypoint(source), accepts_context=False)(partial(self._job, source))
            self._managers[source] = manager
            slots.freed = manager.wake
            try:
                await manager.run(
                    dequeue_timeout=timedelta(seconds=_ASK_S * random.uniform(0.8, 1.2)),
                    batch_size=max(1, slots.size // 2),
                    heartbeat_timeout=self._jobs.heartbeat,
                    log_aggregation_interval=timedelta(0),  # we read its log, not its statistics
                )
            except Exception as error:  # noqa: BLE001 - a manager's edge: the others go on
                del self._managers[source]
                log.error("jobs.not_taken", source=source, error=words(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _OUTAGE.total_seconds())

    async def _tell_alive(self) -> None:
        while True:
            try:
                await self._jobs.seen(self.id, self.name, len(self._running))
            except (SQLAlchemyError, OSError) as error:
                log.debug("worker.not_told", error=words(error))
            await asyncio.sleep(self._jobs.heartbeat.total_seconds() / 3)

    # ── a job ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _job(self, source: str, job: Job) -> None:
        """A job's edge: nothing but the wish to have it again later leaves here, for PgQueuer stores what does."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - PgQueuer makes a task of each
        self._running.add(task)
        try:
            order = Order.loaded(job.payload)
            with structlog.contextvars.bound_contextvars(source=source, cycle=order.cycle):
                await self._perform(source, order, job.attempts)
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            task.uncancel()
            raise RetryRequested(reason="the worker stopped") from None
        except RetryRequested:
            raise
        except Exception as error:
            if is_outage(error):
                raise RetryRequested(_OUTAGE, "the database was away") from None
            log.error("job.failed", source=source, job=job.id, error=words(error), exc_info=error)
        finally:
            self._running.discard(task)

    async def _perform(self, source: str, order: Order, attempts: int) -> None:
        slots, runs = self._engine.slots[source], self._engine.runs
        cycle, slot = self._cycle(source, order), await slots.take()
        error: BaseException | None = None
        due: datetime | None
        try:
            if runs.draining:
                raise RetryRequested(reason="the worker stopped")
            if cycle.probed and slots.unreachable:
                return self._nothing(order, "its vendor cannot be reached")
            # in the queue it may have come due anew, and was not put in again
            due = None if order.due is None else max(order.due, self._store.status.now())
            begun = await self._engine.begin(cycle, [slot], due=due, only=order.connection, again=True)
            if begun:
                error = await begun[0]
        finally:
            slot.release()
        if isinstance(error, Draining):
            raise RetryRequested(reason="the worker stopped")
        if not begun:
            standing = await self._store.due.standing(order.connection, order.cycle)
            why, again = why_not(standing, due, self._store.status.now(), attempts)
            self._nothing(order, why)
            if again is not None:
                raise RetryRequested(again, why)
        return None

    def _nothing(self, order: Order, why: str) -> None:
        log.debug("job.declined", connection=order.connection, why=why)

    def _cycle(self, source: str, order: Order) -> Cycle:
        """The cycle of a job, as this worker knows it."""
        cycle = self._cycles.get(order.cycle)
        if cycle is None:
            which = {"due": order.due, "workspace": None, "only": None}
            cycle = self._cycles[order.cycle] = Cycle(order.cycle, self._engine.plans[source], which, order.sweep)
        self._cycles.move_to_end(order.cycle)
        while len(self._cycles) > _CYCLES:
            self._cycles.popitem(last=False)
        return cycle


def why_not(
    standing: Standing | None, due: datetime | None, now: datetime, attempts: int
) -> tuple[str, timedelta | None]:
    """Why a job's connection could not be claimed, and after which time the job shall come again; None: not at all.

    ``attempts``: how often it came again already.
    """
    if standing is None or not standing.sealed:
        return "it was removed", None
    if not standing.is_active or not standing.assigned:
        return "it is paused" if standing.assigned else "it belongs to no workspace", None
    if standing.status != OK:
        return "it waits for a person", None
    if standing.leased_until is not None and standing.leased_until > now:
        if RUNNING in standing.ran:  # of this cycle: by a worker that is dead, or will be told so
            return "its run in this cycle is not over", standing.leased_until - now + _AGAIN
        return "another process has it", None
    if standing.limited_until is not None and standing.limited_until > now:
        return "its vendor asked to wait", None
    if any(one not in {INTERRUPTED, RUNNING} for one in standing.ran):
        return "it was read in this cycle already", None
    if len(standing.ran) >= MOST_TRIES:
        return f"its runs were broken off {MOST_TRIES} times", None
    if due is not None and standing.next_sync_at is not None and standing.next_sync_at > due:
        return "it was read since", None
    return "another process changes it", _AGAIN * 2**attempts if attempts < _MOST_AGAIN else None


@dataclass
class _Manager(QueueManager):
    """PgQueuer's, but it takes no more jobs than can begin now: what waited here would be kept from who is free."""

    slots: Slots = field(kw_only=True)
    driver: Driver = field(kw_only=True)
    _woken: bool = field(default=False, init=False)

    async def fetch_jobs(
        self, batch_size: int, global_concurrency_limit: int | None, heartbeat_timeout: timedelta
    ) -> AsyncGenerator[Job, None]:
        wanted = {name: EntrypointExecutionParameter(concurrency_limit=0) for name in self.entrypoint_registry}
        while not self.shutdown.is_set() and (free := self.slots.free) > 0:
            jobs = await self.queries.dequeue(
                batch_size=min(batch_size, free),
                entrypoints=wanted,
                queue_manager_id=self.queue_manager_id,
                global_concurrency_limit=None,
                heartbeat_timeout=heartbeat_timeout,
            )
            if not jobs:
                break
            for job in jobs:
                yield job
            await asyncio.sleep(0)  # they take their places now
        self._woken = False  # PgQueuer drops what it hears while it hands out jobs; we have looked since

    async def _effective_dequeue_timeout(self, dequeue_timeout: timedelta) -> timedelta:
        """Without the three questions that PgQueuer asks first: we ask again soon, and are woken by a free place."""
        return dequeue_timeout

    def wake(self) -> None:
        """A place is free: ask for a job soon, for all that are free by then."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_later(_GATHER_S, self.driver.wake, self.channel)
