"""The engine: cycle → claim → run. It owns every task it starts; a run itself is `runs`."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from syncd.policy import INTERRUPTED
from syncd.report import status_object
from syncd.runs import Errand, Live, Runs, words
from syncd.tasks import all_of, to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from syncd.credentials import Vault
    from syncd.http import Net
    from syncd.limits import Buckets
    from syncd.metrics import Metrics
    from syncd.plan import Plan
    from syncd.store import Connection, Store

log = structlog.get_logger(__name__)


class Engine:
    """Runs cycles over the connections of a store.

    ``now``: the process's clock (aware UTC).
    """

    def __init__(
        self,
        *,
        plans: Mapping[str, Plan],
        store: Store,
        vault: Vault,
        net: Net,
        buckets: Buckets,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self.plans = plans
        self.runs = Runs(store=store, vault=vault, net=net, buckets=buckets, metrics=metrics, now=now)
        self._store, self._buckets, self._metrics, self._now = store, buckets, metrics, now
        self._me = uuid.uuid4().hex
        self._cycles: dict[str, asyncio.Task[None]] = {}
        self._overrun: set[str] = set()

    @property
    def live(self) -> Mapping[int, Live]:
        """Run id → the run under way."""
        return self.runs.live

    def new_lease(self) -> str:
        """The text that makes a lease ours: of this process, and of this claim."""
        return f"{self._me}/{uuid.uuid4().hex}"

    # ── cycles ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def start_cycle(self, name: str, turn: datetime) -> None:
        """What a cron job does: start a cycle as a task of ours, unless the last one still runs (said once)."""
        running = self._cycles.get(name)
        if self.runs.draining:
            return
        if running is not None and not running.done():
            if name not in self._overrun:
                self._overrun.add(name)
                log.warning("cycle.still_running", source=name, turn=turn.isoformat())
            return
        self._overrun.discard(name)
        self._cycles[name] = asyncio.create_task(self._scheduled(name, turn), name=f"cycle {name}")

    async def _scheduled(self, name: str, turn: datetime) -> None:
        try:
            await self.cycle(name, trigger="schedule", turn=turn)
        except Exception as error:  # a cycle's edge: the next turn tries again
            passing = isinstance(error, SQLAlchemyError | OSError)
            log.error("cycle.failed", source=name, error=words(error), exc_info=None if passing else error)

    async def cycle(
        self,
        name: str,
        *,
        trigger: str,
        turn: datetime | None = None,
        workspace: str | None = None,
        only: int | None = None,
        sweep: bool = False,
    ) -> dict[str, Any]:
        """One pass over the source's connections that are due now; answers its status object.

        ``turn``: the scheduled moment it is for; None: asked for by hand, then all active ones are taken, due or not.
        ``workspace``, ``only``: of that workspace, that connection alone.
        Raises what the database raises when it cannot be reached.
        """
        plan, began = self.plans[name], time.monotonic()
        which = {"due": None if turn is None else self._now(), "workspace": workspace, "only": only}
        active = await self._store.connections.count_active(name, workspace, only)
        cycle_id = await self._store.cycles.begin(name, trigger, turn)
        with structlog.contextvars.bound_contextvars(source=name, cycle=cycle_id):
            log.debug("cycle.started", trigger=trigger, connections=active)
            slots = [self._slot(plan, cycle_id, which, sweep=sweep) for _ in range(min(plan.slots, active))]
            try:
                await all_of(slots)
            except BaseException:
                # Even a cut cycle tells what its runs did; what is lost with the database is told by the next cycle.
                with suppress(SQLAlchemyError, OSError):
                    await to_its_end(self._store.cycles.finish(cycle_id, status=INTERRUPTED))
                raise
            end = "skipped" if not active else INTERRUPTED if self.runs.draining else "success"
            ended = await self._store.cycles.finish(cycle_id, status=end)
            self._metrics.cycles.labels(name, end).inc()
            status = status_object(plan.source, ended, time.monotonic() - began)
            shown = {key: value for key, value in status.items() if key not in {"source", "failures"}}
            log.info("cycle.finished", **shown)
        return status

    async def _slot(self, plan: Plan, cycle_id: int, which: Mapping[str, Any], *, sweep: bool) -> None:
        """Claim and run one connection after the other until none is due. ``which``: as `Connections.claim` takes."""
        while not self.runs.draining:
            lease = self.new_lease()
            claiming = asyncio.ensure_future(self._store.connections.claim(plan.source.name, lease, cycle_id, **which))
            errand = Errand(streams=plan.source.streams)
            try:
                claimed = await asyncio.shield(claiming)
            except asyncio.CancelledError as stopped:
                # The claim may be in the database already: it is given back.
                if claimed := await claiming:
                    await self.runs.sync(plan, *claimed, lease, errand, stopped=stopped)
                raise
            if claimed is None:
                return
            due_at = self._now() if sweep else self._sweep_due_at(plan, claimed[0], which["due"])
            await self.runs.sync(plan, *claimed, lease, replace(errand, sweep_due_at=due_at))

    def _sweep_due_at(self, plan: Plan, connection: Connection, due: datetime | None) -> datetime | None:
        """On the schedule a sweep comes each ``sweep_every``, the first so long after the connection was added.

        One that is not done by then begins anew: runs that never end well must not keep the next from coming.
        """
        if due is None or plan.sweep_every is None:
            return None
        since = connection.last_sweep_at or connection.created_at
        turns = (self._now() - since) // plan.sweep_every
        return since + turns * plan.sweep_every if turns > 0 else None

    async def drain(self, grace_s: float) -> None:
        """Stop at page boundaries; what is not there within ``grace_s`` is cut. Leases are free afterwards."""
        self.runs.draining = True
        tasks = [task for task in self._cycles.values() if not task.done()]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        for task in late:
            task.cancel()
        if late:
            log.warning("drain.cut", cycles=len(late))
            await asyncio.wait(late, timeout=10)
