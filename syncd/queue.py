"""A cycle whose connections workers run, in whatever process: a job for each in PostgreSQL, then to wait for their end.

Every daemon whose cron fires joins the turn's cycle and puts its connections into the queue: a connection that is in it
already is left alone, so any of the daemons that survives ends the cycle.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from syncd.store.database import database_words, is_outage
from syncd.store.jobs import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from syncd.dispatch import Cycle
    from syncd.engine import Engine
    from syncd.store import Store
    from syncd.store.jobs import Jobs

log = structlog.get_logger(__name__)

_FIRST_LOOK_S, _LOOK_S = 0.1, 1.0
_SHARE = 5  # looking takes at most a fifth of the time, however long a look takes the database


class Queue:
    """``jobs``: the queue of ``store``."""

    def __init__(self, store: Store, jobs: Jobs, engine: Engine) -> None:
        self._store, self._jobs, self._engine = store, jobs, engine

    async def run_due(self, cycle: Cycle, claimed: Callable[[], object]) -> bool:
        """As `Dispatch` has it; False when we drain before its end: then workers and other daemons go on with it."""
        source = cycle.plan.source.name
        ids = await self._store.due.ids(source, cycle.id, **cycle.which)
        log.debug("jobs.put", new=await self._put(cycle, ids), due=len(ids))
        claimed()
        wait_s = _FIRST_LOOK_S
        while not self._engine.runs.draining:
            began_s = time.monotonic()
            try:
                if not await self._goes_on(cycle):
                    return True
            except Exception as error:
                if not is_outage(error):
                    raise
                log.debug("cycle.not_seen", error=database_words(error))  # workers wait for the database as well
            took_s = time.monotonic() - began_s
            await asyncio.sleep(max(wait_s, took_s * _SHARE))
            wait_s = min(wait_s * 1.5, _LOOK_S)
        return False

    async def _put(self, cycle: Cycle, ids: Sequence[int]) -> int:
        due, asked = cycle.which["due"], cycle.asking is not None
        orders = [Order(cycle=cycle.id, connection=one, due=due, sweep=cycle.sweep) for one in ids]
        return await self._jobs.put(cycle.plan.source.name, orders, first=asked)

    async def _goes_on(self, cycle: Cycle) -> bool:
        """Whether a job of the cycle is left, or a run of it under way."""
        if cycle.asking is not None and (first := await self._store.due.first_run(cycle.id)) is not None:
            cycle.asking.has_run(first)
        if await self._jobs.left(cycle.id):
            return True
        alive, cycle.cut = await self._store.due.under_way(cycle.id)
        if alive:
            return True
        # A frozen worker that wakes takes away the job that another has by then; should that one die, nobody has it.
        lost = await self._store.due.ids(cycle.plan.source.name, cycle.id, **cycle.which, broken_off=True)
        return bool(lost) and await self._put(cycle, lost) > 0
