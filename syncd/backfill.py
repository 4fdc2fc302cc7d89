"""Older history on request: each connection is read in stints, between its regular runs.

Nothing of it is held in memory alone: where it goes on is in the cursors, so that an interruption costs the pages of
five seconds at most.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from syncd.errors import LeaseLost, RateLimited, SealError, SourceError
from syncd.live import Errand
from syncd.memory import remembered
from syncd.policy import BACKFILL, FAILED, INTERRUPTED, RUNNING, Draining, GaveWay, RunTimedOut
from syncd.runs import told
from syncd.store import Counts
from syncd.tasks import all_of, to_its_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from datetime import datetime

    from syncd.credentials import Vault
    from syncd.engine import Engine
    from syncd.http import Link
    from syncd.limits import Rate
    from syncd.live import Live
    from syncd.source import Estimate
    from syncd.store import Connection, Store

log = structlog.get_logger(__name__)

FINISHED = "finished"
NEAR = timedelta(seconds=30)  # so long before the regular turn a stint gives way, and none begins
OVERDUE = timedelta(seconds=30)  # so long after it nobody has come: no daemon runs
_UNTOLD = timedelta(seconds=60)  # the wait where a vendor does not say for how long
_POLL_S, _LONGEST_POLL_S = 1.0, 30.0
STINT, REGULAR, WAIT = "stint", "regular", "wait"


@dataclass(slots=True)
class Part:
    """One connection's share of a backfill.

    ``unknown``: why there is no estimate. ``doing``: what it does or waits for, in words. ``status``: ``running``
    (or not begun), ``finished``, ``failed``, ``interrupted``. The counts are of the stints that ended.
    """

    connection: Connection
    estimate: Estimate | None = None
    least_s: float = 0.0
    unknown: str | None = None
    status: str = RUNNING
    doing: str = "waits"
    error: str | None = None
    records: int = 0
    counts: Counts = field(default_factory=Counts)
    calls: int = 0
    reached: datetime | None = None
    not_before: datetime | None = None
    first_tried: bool = False
    run_id: int | None = None

    def fail(self, error: str) -> None:
        self.status, self.error = FAILED, error

    def add(self, live: Live) -> None:
        """Take in what a run under way, or one that ended, has done."""
        self.records += live.records
        self.counts += live.counts
        self.calls += live.calls
        self.reached = live.reached or self.reached


class Backfill:
    """Reads connections back to ``back_to``. ``engine``: of plans with halved rates. ``now``: the process's clock."""

    def __init__(
        self,
        connections: Iterable[Connection],
        *,
        back_to: datetime,
        engine: Engine,
        store: Store,
        vault: Vault,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.parts = [Part(one) for one in connections]
        self._back_to, self._engine, self._store, self._vault = back_to, engine, store, vault
        self._now, self._sleep = now, sleep
        self._slots = {name: asyncio.Semaphore(plan.slots) for name, plan in engine.plans.items()}

    def live(self, part: Part) -> Live | None:
        """The stint of this connection that is under way."""
        return None if part.run_id is None else self._engine.live.get(part.run_id)

    # ── beforehand ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def estimate(self) -> None:
        """Ask what each connection will take; one that cannot be read at all is failed here."""
        await all_of(self._estimated(part) for part in self.parts)

    async def _estimated(self, part: Part) -> None:
        connection, plan = part.connection, self._engine.plans[part.connection.source]
        estimating, link = plan.source.estimate, None
        if connection.unread or estimating is None or not plan.source.backfill:
            return part.fail(connection.unread or f"{connection.source} has no older history to read")
        if connection.limited_until is not None and connection.limited_until > self._now():
            part.unknown = f"its vendor asks to wait until {_at(connection.limited_until, self._now())}"
            return None
        part.doing = "is estimated"
        try:
            async with self._slots[connection.source]:
                credentials = self._vault.open(connection.id, connection.sealed)
                link = self._engine.runs.link(plan, connection, credentials)
                errand = Errand(streams=plan.source.backfill, back_to=self._back_to)
                since = self._engine.runs.since(plan, connection, self._now(), errand)
                async with remembered(link, self._store), plan.source.connect(link) as api:
                    part.estimate = await estimating(api, since)
            part.least_s, part.doing = least_s(part.estimate.draws, link.rates), "waits"
        except RateLimited as later:
            part.unknown = told(later, _secrets(link))  # it may be read all the same, when its time has come
        except Exception as error:  # noqa: BLE001 - one connection's trouble stops no other
            part.fail(told(error, _secrets(link)))
            _tell_defect(error)
        return None

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Read every connection that has not failed to its end; one's failure stops no other."""
        await all_of(self._read(part) for part in self.parts if part.status == RUNNING)

    async def _read(self, part: Part) -> None:
        one = part.connection
        with structlog.contextvars.bound_contextvars(source=one.source, workspace=one.workspace_id, connection=one.id):
            try:
                while part.status == RUNNING:
                    async with self._slots[one.source]:
                        wait_s = await self._step(part)
                    if wait_s:
                        await self._sleep(wait_s)
            except asyncio.CancelledError:
                part.status = INTERRUPTED
                raise
            except Exception as error:  # noqa: BLE001 - as above
                part.fail(told(error))
                _tell_defect(error)

    async def _step(self, part: Part) -> float:
        """Do what is next for this connection; answers for how many seconds nothing is."""
        connection = await self._store.connections.get(part.connection.id)
        if connection is None or connection.unread:
            part.fail(connection.unread or "" if connection else "it was erased")
            return 0
        step, doing, wait_s = next_step(
            connection, self._now(), not_before=part.not_before, first_tried=part.first_tried
        )
        if step == WAIT and doing != part.doing:
            log.info("backfill.waiting", why=doing)
        part.doing = doing
        if step == REGULAR:
            await self._regular(part, connection)
        elif step == STINT:
            wait_s = await self._stint(part, connection)
        return wait_s

    async def _regular(self, part: Part, connection: Connection) -> None:
        """The connection's regular run, which no daemon makes."""
        status = await self._engine.cycle(connection.source, trigger="cli", only=connection.id)
        if connection.last_success_at is None:
            part.first_tried = part.first_tried or status["deferred_workspaces"] > 0
            for failure in status["failures"]:
                hint = f" - {failure['hint']}" if failure["hint"] else ""
                part.fail(f"its first regular run failed: {failure['error']}{hint}")

    async def _stint(self, part: Part, connection: Connection) -> float:
        """Read on until the end, a limit, or the connection's regular turn; answers the wait where it was not ours."""
        cycle_id = await self._store.cycles.begin(connection.source, BACKFILL, None)
        ended = INTERRUPTED
        try:
            with structlog.contextvars.bound_contextvars(cycle=cycle_id):
                done = await self._claimed_run(part, connection, cycle_id)
            ended = "success" if done else "skipped"
        finally:
            # Even a cut stint tells what it did; what is lost with the database is told by the next cycle.
            with suppress(SQLAlchemyError, OSError):
                await to_its_end(self._store.cycles.finish(cycle_id, status=ended))
        if not done:
            return _POLL_S
        self._judge(part, *done)
        return 0

    async def _claimed_run(
        self, part: Part, connection: Connection, cycle_id: int
    ) -> tuple[Live, BaseException | None] | None:
        """Claim the connection and run its backfill; None where somebody else was first."""
        plan, lease, stopped = self._engine.plans[connection.source], self._engine.new_lease(), None
        claiming = asyncio.ensure_future(
            self._store.connections.claim(connection.source, lease, cycle_id, due=None, only=connection.id)
        )
        try:
            claimed = await asyncio.shield(claiming)
        except asyncio.CancelledError as cut:
            stopped, claimed = cut, None
            with suppress(Exception):  # a claim that failed does not undo the cut
                claimed = await claiming  # it may be in the database already: it is given back
            if claimed is None:
                raise
        if claimed is None:
            return None
        mine, part.run_id = claimed
        errand = Errand(
            streams=plan.source.backfill,
            back_to=self._back_to,
            yields_at=mine.next_sync_at and mine.next_sync_at - NEAR,
        )
        try:
            return await self._engine.runs.sync(plan, mine, part.run_id, lease, errand, stopped=stopped)
        finally:
            part.run_id = None

    def _judge(self, part: Part, live: Live, error: BaseException | None) -> None:
        """What a stint's end means."""
        part.add(live)
        match error:
            case None:
                part.status = FINISHED
            case RunTimedOut() | GaveWay() | LeaseLost():
                pass  # it goes on; a lease is lost to new credentials, or to whoever reads it now
            case RateLimited(ours=False, retry_after_s=float() | int()):
                pass  # the connection's row says until when
            case RateLimited(retry_after_s=seconds):
                part.not_before = self._now() + (_UNTOLD if seconds is None else timedelta(seconds=seconds))
            case Draining():
                part.status = INTERRUPTED
            case _:
                part.fail(told(error, _secrets(live.link)))
        log.info(
            "backfill.progress",
            status=part.status,
            reached=part.reached and part.reached.isoformat(),
            records=part.records,
            added=part.counts.added,
            changed=part.counts.changed,
            deleted=part.counts.deleted,
            calls=part.calls,
        )


def next_step(
    connection: Connection, now: datetime, *, not_before: datetime | None, first_tried: bool
) -> tuple[str, str, float]:
    """What a backfill does next with a connection, in words too, and how long it waits (seconds) where it waits.

    A regular run goes before any stint: near its turn the daemon has the way, and a connection that was never read
    begins with its first run, whose cursors say where older history begins. ``not_before``: until then the budget is
    used up. ``first_tried``: that first run was begun here and has to go on at its next turn.
    """
    for until, why in (
        (connection.limited_until, "its vendor asks to wait"),
        (not_before, "what a backfill may ask for is used up"),
    ):
        if until is not None and until > now:
            return WAIT, f"{why} until {_at(until, now)}", min((until - now).total_seconds(), _LONGEST_POLL_S)
    if connection.leased_until is not None and connection.leased_until >= now:
        return WAIT, "another process reads it (one that died holds it for five minutes)", _POLL_S
    due_in = (connection.next_sync_at or now) - now
    if connection.last_success_at is None:
        if not first_tried or due_in <= timedelta(0):
            return REGULAR, "its first regular run", 0
        return WAIT, "waits for its next regular run", _POLL_S
    if due_in > NEAR:
        return STINT, "reads older history", 0
    if due_in <= -OVERDUE:
        return REGULAR, "its regular run", 0
    return WAIT, "waits for its regular run", _POLL_S


def least_s(draws: Mapping[str, int], rates: Mapping[str, Rate]) -> float:
    """Seconds that these units (limit → units) take at least: the first window's are free, each further one waits."""
    return max(
        ((units - 1) // rates[name].calls * rates[name].per_s for name, units in draws.items() if name in rates),
        default=0.0,
    )


def _at(moment: datetime, now: datetime) -> str:
    return f"{moment:%H:%M} UTC" if moment - now < timedelta(hours=12) else f"{moment:%Y-%m-%d %H:%M} UTC"


def _secrets(link: Link | None) -> set[str]:
    return link.secrets if link else set()


def _tell_defect(error: Exception) -> None:
    if not isinstance(error, SourceError | SealError | LeaseLost | SQLAlchemyError | OSError):
        log.error("backfill.defect", exc_info=error)
