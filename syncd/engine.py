"""The engine: cycle → claim → run. It owns every task it starts; a run itself is `runs`."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from syncd.dispatch import Asking, Cycle
from syncd.errors import StoreFailed, Transient
from syncd.live import Errand, Live
from syncd.local import Local
from syncd.policy import INTERRUPTED
from syncd.report import status_object
from syncd.runs import Runs, words
from syncd.slots import Slot, Slots
from syncd.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from datetime import datetime, timedelta

    from syncd.credentials import Vault
    from syncd.dispatch import Dispatch
    from syncd.limits import Buckets
    from syncd.metrics import Metrics
    from syncd.net import Net
    from syncd.plan import Plan
    from syncd.store import Connection, Store

log = structlog.get_logger(__name__)

MOST_ASKED = 200  # cycles that were asked for and wait for a place
_PRUNE_EVERY_S = 3600.0
_PRUNE_BATCHES = 40  # at most so many a time: what a long-lived database has too much goes over some hours


class Engine:
    """Runs cycles over the connections of a store.

    ``now``: the process's clock (aware UTC). ``history``: how long the rows of cycles and runs are kept; None: always.
    ``dispatch``: makes of this engine who has a cycle's connections run.
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
        history: timedelta | None = None,
        dispatch: Callable[[Engine], Dispatch] = Local,
    ) -> None:
        self.plans = plans
        self.slots = {name: Slots(plan.slots) for name, plan in plans.items()}
        self.runs = Runs(store=store, vault=vault, net=net, buckets=buckets, metrics=metrics, now=now)
        self._store, self._buckets, self._metrics, self._now = store, buckets, metrics, now
        self._me = uuid.uuid4().hex
        self._tasks: set[asyncio.Task[None]] = set()
        self._claiming: set[str] = set()
        self._overrun: set[str] = set()
        self._asked: dict[tuple[Any, ...], Asking] = {}
        self._history, self._pruned_s = history, dict[str, float]()
        self._dispatch = dispatch(self)

    @property
    def live(self) -> Mapping[int, Live]:
        """Run id → the run under way."""
        return self.runs.live

    def new_lease(self) -> str:
        """The text that makes a lease ours: of this process, and of this claim."""
        return f"{self._me}/{uuid.uuid4().hex}"

    # ── cycles ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def start_cycle(self, name: str, turn: datetime) -> None:
        """What a cron job does: start a cycle as a task of ours, unless the last one still takes connections.

        That is said once. One that only waits for its last runs holds nobody up: what else is due has its turn.
        """
        if self.runs.draining:
            return
        if name in self._claiming:
            if name not in self._overrun:
                self._overrun.add(name)
                log.warning("cycle.still_running", source=name, turn=turn.isoformat())
            return
        self._overrun.discard(name)
        self._claiming.add(name)
        self._own(name, self._guarded(name, partial(self._claiming.discard, name), trigger="schedule", turn=turn))

    def ask(self, name: str, *, workspace: str | None, only: int | None, sweep: bool) -> Asking | None:
        """Start a cycle that somebody asked for, as a task of ours; None while we stop, or too many wait already.

        It takes what `cycle` takes by hand. The same one that was asked for and still takes connections is answered
        instead of another.
        """
        key = (name, workspace, only, sweep)
        if (known := self._asked.get(key)) is not None:
            return known
        if self.runs.draining or len(self._asked) >= MOST_ASKED:
            return None
        asking = self._asked[key] = Asking()
        claimed = partial(self._asked.pop, key, None)
        how = {"trigger": "api", "workspace": workspace, "only": only, "sweep": sweep}
        self._own(name, self._guarded(name, claimed, asking, **how))
        return asking

    def _own(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"cycle {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(
        self, name: str, claimed: Callable[[], object], asking: Asking | None = None, **how: Any
    ) -> None:
        """A cycle's edge: what ends it is told, and the next turn tries again."""
        try:
            await self.cycle(name, claimed=claimed, asking=asking, **how)
        except Exception as error:
            passing = isinstance(error, SQLAlchemyError | OSError)
            log.error("cycle.failed", source=name, error=words(error), exc_info=None if passing else error)
            if asking is not None:
                asking.failed = words(error)
        finally:
            claimed()
            if asking is not None:
                asking.begun.set()

    async def cycle(
        self,
        name: str,
        *,
        trigger: str,
        turn: datetime | None = None,
        workspace: str | None = None,
        only: int | None = None,
        sweep: bool = False,
        claimed: Callable[[], object] = lambda: None,
        asking: Asking | None = None,
    ) -> dict[str, Any]:
        """One pass over the source's connections that are due now; answers its status object.

        ``turn``: the scheduled moment it is for; None: asked for by hand, then all active ones are taken, due or not.
        ``workspace``, ``only``: of that workspace, that connection alone. ``claimed``: called when it takes no more.
        ``asking``: is told what came of it. Raises what the database raises when it cannot be reached.
        """
        plan, began = self.plans[name], time.monotonic()
        await self.runs.unsaved.stored()  # what waits for them is claimed in this cycle
        active = await self._store.connections.count_active(name, workspace, only)
        cycle_id = await self._store.cycles.begin(name, trigger, turn, held=self.runs.held)
        which = {"due": None if turn is None else self._now(), "workspace": workspace, "only": only}
        cycle = Cycle(cycle_id, plan, which, sweep, asking=asking)
        if asking is not None:
            asking.cycle_id = cycle_id
        with structlog.contextvars.bound_contextvars(source=name, cycle=cycle_id):
            log.debug("cycle.started", trigger=trigger, connections=active)
            try:
                over = not active or await self._dispatch.run_due(cycle, claimed)
            except BaseException:
                # Even a cut cycle tells what its runs did; what is lost with the database is told by the next cycle.
                with suppress(SQLAlchemyError, OSError):
                    await to_its_end(self._store.cycles.finish(cycle_id, status=INTERRUPTED))
                raise
            end = "skipped" if not active else INTERRUPTED if self.runs.draining or cycle.cut else "success"
            ended = await self._store.cycles.finish(cycle_id, status=end, over=over)
            self._metrics.cycles.labels(name, end).inc()
            status = status_object(plan.source, ended, time.monotonic() - began)
            shown = {key: value for key, value in status.items() if key not in {"source", "failures"}}
            ran = sum(ended[f"{way}_workspaces"] for way in ("successful", "failed", "deferred"))
            (log.info if ran or end == INTERRUPTED else log.debug)("cycle.finished", **shown)
            await self._prune(name)
        return status

    async def begin(
        self, cycle: Cycle, slots: Sequence[Slot], **narrowed: Any
    ) -> list[Coroutine[Any, Any, BaseException | None]]:
        """Claim the connections that are next, one for each of ``slots``; answers their runs, fewer when no more are
        due. A slot is released when its run ends; those that had none are the caller's.

        ``narrowed``: of what the cycle may take, as `Connections.claim_some` has it. A run answers what went wrong.
        """
        plan, lease, claimed_s = cycle.plan, self.new_lease(), time.monotonic()
        which = {"most": len(slots), **cycle.which, **narrowed}
        claiming = asyncio.ensure_future(
            self._store.connections.claim_some(plan.source.name, lease, cycle.id, held=self.runs.held, **which)
        )
        errand = Errand(streams=plan.source.streams)
        try:
            claimed = await asyncio.shield(claiming)
        except asyncio.CancelledError as stopped:
            # The claim may be in the database already: it is given back. One that failed does not undo the cut.
            claimed = []
            with suppress(Exception):
                claimed = await claiming
            await to_its_end(self._give_back(plan, claimed, lease, errand, stopped))
            raise
        begun = []
        for slot, (connection, run_id) in zip(slots, claimed, strict=False):
            self.runs.held.add(connection.id)
            if cycle.asking is not None:
                cycle.asking.has_run(run_id)
            due_at = self._now() if cycle.sweep else self._sweep_due_at(plan, connection, which["due"])
            its = replace(errand, sweep_due_at=due_at)
            run = self.runs.sync(plan, connection, run_id, lease, its, slot=slot, claimed_s=claimed_s)
            begun.append(self._run(cycle, slot, run))
        return begun

    async def _give_back(
        self,
        plan: Plan,
        claimed: Sequence[tuple[Connection, int]],
        lease: str,
        errand: Errand,
        stopped: asyncio.CancelledError,
    ) -> None:
        await asyncio.gather(
            *(self.runs.sync(plan, *one, lease, errand, stopped=stopped) for one in claimed), return_exceptions=True
        )

    async def _run(
        self, cycle: Cycle, slot: Slot, syncing: Coroutine[Any, Any, tuple[Live, BaseException | None]]
    ) -> BaseException | None:
        """A run to its end, and what it says of the vendor; answers what went wrong with it."""
        slots = self.slots[cycle.plan.source.name]
        probe = slots.unreachable
        try:
            live, error = await syncing
            if error is None:
                slot.answered()
            elif isinstance(error, Transient):
                slot.unanswered(live.connection.id)
            cycle.cut |= isinstance(error, StoreFailed)
            cycle.probed |= probe and slots.unreachable
            return error
        finally:
            slot.release()

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
        tasks = set(self._tasks)
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        for task in late:
            task.cancel()
        if late:
            log.warning("drain.cut", cycles=len(late))
            await asyncio.wait(late, timeout=10)

    async def _prune(self, name: str) -> None:
        """Drop the source's rows of cycles and runs that are older than the history to keep, at most once an hour."""
        last_s = self._pruned_s.get(name)
        if self._history is None or (last_s is not None and time.monotonic() - last_s < _PRUNE_EVERY_S):
            return
        self._pruned_s[name] = time.monotonic()
        try:
            await self._store.budgets.prune(self._history)
            if self._store.jobs is not None:
                await self._store.jobs.prune()
            pruned = 0
            for _ in range(_PRUNE_BATCHES):
                if self.runs.draining or not (batch := await self._store.cycles.prune(name, self._history)):
                    break
                pruned += batch
        except (SQLAlchemyError, OSError) as error:
            log.warning("history.not_pruned", error=words(error))
        else:
            if pruned:
                log.info("history.pruned", rows=pruned)
