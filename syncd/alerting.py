"""The daemon's watch over its connections: look, decide, queue; and for each receiver a task that delivers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from syncd.alerts import Look, decide, retry_in
from syncd.notify import Undelivered, message_of, open_receivers
from syncd.report import missed
from syncd.store.database import database_words
from syncd.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from syncd.notify import Receiver
    from syncd.plan import Plan
    from syncd.settings import Settings
    from syncd.store import Delivery, Store

log = structlog.get_logger(__name__)

_SHORTEST_S, _LONGEST_S = 1.0, 15.0  # between two looks
_ENDING_S = 10.0  # of a message that is under way when we stop
_PRUNE_EVERY = timedelta(hours=1)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0  # between tries to write down what became of a message


@asynccontextmanager
async def alerting(settings: Settings, store: Store, plans: Mapping[str, Plan], link: str) -> AsyncIterator[None]:
    """Watch and tell meanwhile; nothing where no receiver is set."""
    async with open_receivers(settings.alerts) as receivers:
        if not receivers:
            yield
            return
        task = asyncio.create_task(Alerting(settings, store, plans, receivers, link).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


class Alerting:
    """``link``: where people reach the status page. Nothing here ends or holds up a cycle: it has tasks of its own."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        plans: Mapping[str, Plan],
        receivers: Mapping[str, Receiver],
        link: str,
    ) -> None:
        self._settings, self._store, self._plans, self._receivers = settings, store, plans, receivers
        self._link = link
        wait_s = settings.alerts.wait.total_seconds()
        self._every_s = min(max(wait_s / 20, _SHORTEST_S), _LONGEST_S)
        self._started = self._pruned_at = store.status.now()
        self._queued = {name: asyncio.Event() for name in receivers}
        self._failing: set[str] = set()
        self._interrupted: set[str] = set()

    async def run(self) -> None:
        """Until cancelled; a delivery under way is brought to its end."""
        async with asyncio.TaskGroup() as tasks:
            for name in self._receivers:
                tasks.create_task(self._deliver_to(name))
            while True:
                await self._kept_up("look", self.look)
                await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """One look at everything: what there is to tell is queued."""
        now = self._store.status.now()
        look = Look(
            now=now,
            wait=self._settings.alerts.wait,
            started=self._started,
            seen={},
            next_turn={name: plan.next_turn for name, plan in self._plans.items()},
        )
        turns = missed(self._store, self._plans, self._settings)
        for notice in await self._store.alerts.look(look, turns, decide, list(self._receivers)):
            ids = list(notice.connections[:5])
            log.info("alert.told", alert=notice.event, source=notice.source, count=notice.count, connections=ids)
        for queued in self._queued.values():
            queued.set()
        if now - self._pruned_at > _PRUNE_EVERY:
            self._pruned_at = now
            await self._store.outbox.prune(self._settings.history)

    async def _deliver_to(self, name: str) -> None:
        while True:
            await self._kept_up(name, partial(self.deliver, name))
            self._queued[name].clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._queued[name].wait()

    async def deliver(self, name: str) -> None:
        """Send a receiver all whose time has come."""
        while (delivery := await self._store.outbox.take(name)) is not None:
            await to_its_end(self._send(name, delivery), within_s=_ENDING_S)

    async def _send(self, name: str, delivery: Delivery) -> None:
        try:
            await self._receivers[name].deliver(message_of(delivery, self._link))
        except Exception as unknown:  # noqa: BLE001 - what a receiver did not foresee must not come back for ever
            error = unknown if isinstance(unknown, Undelivered) else _defect(unknown)
            again = retry_in(delivery.attempts, self._store.status.now() - delivery.made_at, error.after_s)
            self._say(name, delivery, error, given_up=again is None)
            ending = partial(self._store.outbox.failed, delivery, str(error), again_in=again, refused=error.refused)
        else:
            if name in self._failing:
                self._failing.discard(name)
                log.info("alert.delivered", receiver=name)
            ending = partial(self._store.outbox.sent, delivery)
        await _written(ending)

    def _say(self, name: str, delivery: Delivery, error: Undelivered, *, given_up: bool) -> None:
        if given_up:
            log.error("alert.given_up", receiver=name, notice=delivery.id, error=str(error))
        elif name not in self._failing:
            self._failing.add(name)
            log.warning("alert.undelivered", receiver=name, error=str(error))

    async def _kept_up(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        """Whatever fails here is said once, and tried again."""
        try:
            await work()
        except Exception as error:  # the edge of the watch: the next look tries again
            if what not in self._interrupted:
                passing = isinstance(error, SQLAlchemyError | OSError)
                log.error(
                    "alerts.interrupted", what=what, error=database_words(error), exc_info=None if passing else error
                )
            self._interrupted.add(what)
        else:
            if what in self._interrupted:
                log.info("alerts.resumed", what=what)
            self._interrupted.discard(what)


def _defect(error: Exception) -> Undelivered:
    log.error("alert.defect", error=type(error).__name__, exc_info=error)
    return Undelivered(f"a defect in syncd ({type(error).__name__})", refused=True)


async def _written(ending: Callable[[], Awaitable[None]]) -> None:
    """Write it down, however long the database is away: a message that arrived must not go out again."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            await ending()
        except (SQLAlchemyError, OSError):
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        else:
            return
