"""The engine: cycle → claim → run → pull → finish. It owns every task it starts."""

from __future__ import annotations

import asyncio
import time
import traceback
import uuid
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from syncd.errors import CursorExpired, LeaseLost, SealError, SourceError
from syncd.http import Link
from syncd.logs import redact
from syncd.plan import Plan, budget
from syncd.policy import FAILED, INTERRUPTED, Draining, RunTimedOut, judge, kind_of
from syncd.report import status_object
from syncd.source import Since
from syncd.store import Counts, Ended
from syncd.store.connections import LEASE
from syncd.store.database import database_words
from syncd.tasks import all_of, to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from syncd.credentials import Vault
    from syncd.http import Net
    from syncd.limits import Buckets
    from syncd.metrics import Metrics
    from syncd.source import Page, Stream
    from syncd.store import Connection, Store

log = structlog.get_logger(__name__)

_OVERTIME_S = 180.0  # past its time limit a run is cut even in mid-page: one call's patience and one attempt


@dataclass(slots=True)
class Live:
    """A run under way, for those who watch."""

    connection: Connection
    started_at: datetime
    stream: str = ""
    counted_in: str | None = None
    records: int = 0
    counts: Counts = field(default_factory=Counts)
    link: Link | None = None

    @property
    def calls(self) -> int:
        return self.link.calls if self.link else 0


class Engine:
    """Runs cycles over the connections of a store.

    ``now``: the process's clock (aware UTC). ``live``: run id → the run under way.
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
        self.live: dict[int, Live] = {}
        self._store, self._vault, self._net, self._buckets = store, vault, net, buckets
        self._metrics, self._now = metrics, now
        self._me = uuid.uuid4().hex
        self._draining = False
        self._cycles: dict[str, asyncio.Task[None]] = {}
        self._overrun: set[str] = set()

    # ── cycles ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def start_cycle(self, name: str, turn: datetime) -> None:
        """What a cron job does: start a cycle as a task of ours, unless the last one still runs (said once)."""
        running = self._cycles.get(name)
        if self._draining:
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
            log.error("cycle.failed", source=name, error=_words(error), exc_info=None if passing else error)

    async def cycle(
        self,
        name: str,
        *,
        trigger: str,
        turn: datetime | None = None,
        workspace: str | None = None,
        sweep: bool = False,
    ) -> dict[str, Any]:
        """One pass over the source's connections that are due now; answers its status object.

        ``turn``: the scheduled moment it is for; None: asked for by hand, then all active ones are taken, due or not.
        Raises what the database raises when it cannot be reached.
        """
        plan, began = self.plans[name], time.monotonic()
        due = None if turn is None else self._now()
        active = await self._store.connections.count_active(name, workspace)
        cycle_id = await self._store.cycles.begin(name, trigger, turn)
        with structlog.contextvars.bound_contextvars(source=name, cycle=cycle_id):
            log.debug("cycle.started", trigger=trigger, connections=active)
            slots = [self._slot(plan, cycle_id, due, workspace, sweep=sweep) for _ in range(min(plan.slots, active))]
            try:
                await all_of(slots)
            except BaseException:
                # Even a cut cycle tells what its runs did; what is lost with the database is told by the next cycle.
                with suppress(SQLAlchemyError, OSError):
                    await to_its_end(self._store.cycles.finish(cycle_id, status=INTERRUPTED))
                raise
            end = "skipped" if not active else INTERRUPTED if self._draining else "success"
            ended = await self._store.cycles.finish(cycle_id, status=end)
            self._metrics.cycles.labels(name, end).inc()
            status = status_object(plan.source, ended, time.monotonic() - began)
            shown = {key: value for key, value in status.items() if key not in {"source", "failures"}}
            log.info("cycle.finished", **shown)
        return status

    async def _slot(
        self, plan: Plan, cycle_id: int, due: datetime | None, workspace: str | None, *, sweep: bool
    ) -> None:
        """Claim and run one connection after the other until none is due."""
        while not self._draining:
            lease = f"{self._me}/{uuid.uuid4().hex}"
            claiming = asyncio.ensure_future(
                self._store.connections.claim(plan.source.name, lease, cycle_id, due=due, workspace=workspace)
            )
            try:
                claimed = await asyncio.shield(claiming)
            except asyncio.CancelledError as stopped:
                # The claim may be in the database already: it is given back.
                if claimed := await claiming:
                    await self._sync(plan, *claimed, lease, sweep=False, stopped=stopped)
                raise
            if claimed is None:
                return
            sweeps = sweep or self._sweep_due(plan, claimed[0], due)
            await self._sync(plan, *claimed, lease, sweep=sweeps)

    def _sweep_due(self, plan: Plan, connection: Connection, due: datetime | None) -> bool:
        """On the schedule a sweep comes each ``sweep_every``; a connection's first run is none."""
        if due is None or plan.sweep_every is None or connection.last_success_at is None:
            return False
        return self._now() - (connection.last_sweep_at or connection.created_at) >= plan.sweep_every

    async def drain(self, grace_s: float) -> None:
        """Stop at page boundaries; what is not there within ``grace_s`` is cut. Leases are free afterwards."""
        self._draining = True
        tasks = [task for task in self._cycles.values() if not task.done()]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        for task in late:
            task.cancel()
        if late:
            log.warning("drain.cut", cycles=len(late))
            await asyncio.wait(late, timeout=10)

    # ── one run ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _sync(
        self,
        plan: Plan,
        connection: Connection,
        run_id: int,
        lease: str,
        *,
        sweep: bool,
        stopped: asyncio.CancelledError | None = None,
    ) -> None:
        """One connection's run: whatever goes wrong with it ends here, as a row.

        ``stopped``: we were cut before it began; it only ends.
        """
        live = self.live[run_id] = Live(connection, self._now())
        gauge = self._metrics.running.labels(plan.source.name)
        gauge.inc()
        error: BaseException | None = None
        with structlog.contextvars.bound_contextvars(
            run=run_id, connection=connection.id, workspace=connection.workspace_id
        ):
            try:
                if stopped is None:
                    error = await self._pulled(plan, live, run_id, lease, sweep=sweep)
            except asyncio.CancelledError as cut:
                stopped = cut
            finally:
                gauge.dec()
                del self.live[run_id]
            if stopped is not None:
                error = Draining("the daemon stopped")
            try:
                # Even a cut run tells its end and frees its lease.
                await to_its_end(self._finish(plan, live, run_id, lease, error, sweep=sweep))
            except asyncio.CancelledError as cut:
                stopped = cut
        if stopped is not None:
            raise stopped

    async def _pulled(self, plan: Plan, live: Live, run_id: int, lease: str, *, sweep: bool) -> Exception | None:
        """Read all there is within the time limit; answers what went wrong."""
        keeper = asyncio.create_task(self._keep_lease(live.connection.id, lease))
        try:
            async with asyncio.timeout(plan.run_timeout.total_seconds() + _OVERTIME_S) as limit:
                await self._pull(plan, live, run_id, lease, sweep=sweep)
        except TimeoutError as raised:
            late = RunTimedOut(f"no page within {plan.run_timeout} and {_OVERTIME_S:g} s")
            return late if limit.expired() else raised
        except Exception as raised:  # noqa: BLE001 - the one broad except: one workspace never stops another
            return raised
        finally:
            keeper.cancel()
        return None

    async def _pull(self, plan: Plan, live: Live, run_id: int, lease: str, *, sweep: bool) -> None:
        """Read every stream of the connection, page by page."""
        connection = live.connection
        credentials = self._vault.open(connection.id, connection.sealed)
        link = live.link = self.link(plan, connection, credentials, lease=lease)
        since = Since(
            now=live.started_at,
            lookback=plan.sweep_lookback if sweep else plan.lookback,
            sweep=sweep,
            stored=partial(self._store.pages.stored, connection.id),
        )
        ends = time.monotonic() + plan.run_timeout.total_seconds()
        async with plan.source.connect(link) as api:
            for stream in plan.source.streams:
                live.stream = stream.name
                try:
                    await self._read(plan, live, stream, api, since, run_id, lease, ends)
                except CursorExpired:
                    log.info("cursor.expired", stream=stream.name)
                    await self._store.pages.forget_cursors(connection.id, stream.name, lease)
                    await self._read(plan, live, stream, api, since, run_id, lease, ends)

    async def _read(
        self, plan: Plan, live: Live, stream: Stream, api: Any, since: Since, run_id: int, lease: str, ends: float
    ) -> None:
        connection = live.connection
        since = replace(
            since,
            cursors=await self._store.pages.cursors(connection.id, stream.name),
            backlog=await self._store.pages.due_backlog(connection.id, stream.name),
        )
        async with aclosing(stream.read(api, since)) as pages:  # type: ignore[type-var]  # streams are generators
            async for page in pages:
                await self._checkpoint(plan, live, stream.name, page, run_id, lease)
                if self._draining:
                    raise Draining("the daemon is stopping")
                if time.monotonic() > ends:
                    raise RunTimedOut(f"reached its time limit of {plan.run_timeout}")

    async def _checkpoint(self, plan: Plan, live: Live, stream: str, page: Page, run_id: int, lease: str) -> None:
        counted = sum(type(record) is plan.source.counts for record in page.records)
        if counted and live.counted_in is None:
            live.counted_in = stream
        if stream != live.counted_in:
            counted = 0  # a later stream may complete records that an earlier one has read: they are read once
        counts = await self._store.pages.checkpoint(
            page,
            connection_id=live.connection.id,
            stream=stream,
            lease=lease,
            run_id=run_id,
            records=counted,
            calls=live.calls,
        )
        live.records += counted
        live.counts += counts
        for change, rows in (("added", counts.added), ("changed", counts.changed), ("deleted", counts.deleted)):
            self._metrics.records.labels(plan.source.name, change).inc(rows)
        log.debug("page.stored", stream=stream, records=len(page.records), added=counts.added, changed=counts.changed)

    async def _finish(
        self, plan: Plan, live: Live, run_id: int, lease: str, error: BaseException | None, *, sweep: bool
    ) -> None:
        connection, now = live.connection, self._now()
        secrets = live.link.secrets if live.link else ()
        verdict = judge(error, now=now, next_turn=plan.next_turn(now), failures=connection.failures)
        ended = Ended(
            verdict=verdict,
            error_kind=None if error is None else kind_of(error),
            error=None if error is None else redact(_words(error), secrets),
            hint=(redact(error.hint, secrets) or None) if isinstance(error, SourceError) else None,
            calls=live.calls,
            swept=sweep,
        )
        self._metrics.runs.labels(plan.source.name, verdict.run_status).inc()
        try:
            mine = await self._store.cycles.finish_run(run_id, connection, lease, ended)
        except Exception as lost:  # noqa: BLE001 - the run's edge as well
            # The run's row stays `running` and its lease runs out: whoever claims next tells it as interrupted.
            log.error("run.not_finished", error=_words(lost))
            return
        if not mine:
            log.warning("lease.lost")
        say = log.warning if verdict.run_status == FAILED else log.info
        say(
            "run.finished",
            status=verdict.run_status,
            records=live.records,
            added=live.counts.added,
            changed=live.counts.changed,
            deleted=live.counts.deleted,
            calls=live.calls,
            **({"kind": ended.error_kind, "error": ended.error, "hint": ended.hint} if error is not None else {}),
        )
        if error is not None and kind_of(error) == "internal" and not isinstance(error, SQLAlchemyError | OSError):
            log.error("run.defect", exc_info=error)

    async def _keep_lease(self, connection_id: int, lease: str) -> None:
        """Renew the lease while a stream reads long without a page; a lost one shows at the next checkpoint."""
        while True:
            await asyncio.sleep(LEASE.total_seconds() / 3)
            with suppress(SQLAlchemyError, OSError, LeaseLost):
                await self._store.pages.renew(connection_id, lease)

    def link(
        self, plan: Plan, connection: Connection, credentials: Mapping[str, Any], *, lease: str | None = None
    ) -> Link:
        """The connection's way out, with the budget of its credential. ``lease``: of the run that it is for."""
        held = str(connection.sealed)

        async def save(renewed: Mapping[str, Any]) -> None:
            nonlocal held
            sealed = self._vault.seal(connection.id, renewed)
            await self._store.connections.save_credentials(connection.id, sealed, lease=lease, instead_of=held)
            held = sealed

        def called(method: str, outcome: str, seconds: float) -> None:
            self._metrics.calls.labels(plan.source.name, method, outcome).inc()
            self._metrics.call_seconds.labels(plan.source.name).observe(seconds)

        return Link(
            source=plan.source.name,
            credential=budget(plan.source, connection.id, credentials),
            net=self._net,
            buckets=self._buckets,
            credentials=credentials,
            settings=connection.settings,
            options=plan.options,
            rates=plan.rates,
            save=save,
            patience_s=plan.patience_s,
            now=self._now,
            on_call=called,
        )


def _words(error: BaseException) -> str:
    """An error in words that are safe to store. A defect's own text may hold anything: it gives its place instead."""
    if isinstance(error, SourceError | SealError | Draining | RunTimedOut):
        return str(error)
    if isinstance(error, LeaseLost):
        return "the lease ran out and another daemon took over"
    if isinstance(error, SQLAlchemyError | OSError):
        return f"database: {database_words(error)}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place} (a defect in syncd; the log has the traceback)"
