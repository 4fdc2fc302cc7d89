"""One connection's run: read its streams page by page, store each page, tell how it ended."""

from __future__ import annotations

import asyncio
import time
import traceback
from contextlib import aclosing, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from syncd.checkpoints import Checkpoints, Whose
from syncd.ends import say_end
from syncd.errors import CursorExpired, LeaseLost, RateLimited, SealError, SourceError, StoreFailed, Transient
from syncd.http import Link
from syncd.live import Live
from syncd.logs import redact
from syncd.memory import learn, tell
from syncd.passes import progress_after, under_way_since
from syncd.plan import budget
from syncd.policy import DEFERRED, INTERRUPTED, Draining, GaveWay, RunTimedOut, judge, kind_of
from syncd.renewal import Renewal, Unsaved
from syncd.source import Since
from syncd.store import Ended, Move
from syncd.store.database import database_words, is_outage
from syncd.store.told import LOST
from syncd.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from syncd.credentials import Vault
    from syncd.limits import Buckets
    from syncd.live import Errand
    from syncd.metrics import Metrics
    from syncd.net import Net
    from syncd.plan import Plan
    from syncd.policy import Verdict
    from syncd.slots import Slot
    from syncd.source import Stream
    from syncd.store import Connection, Store

log = structlog.get_logger(__name__)

_OVERTIME_S = 180.0  # past its time limit a run is cut even in mid-page: one call's patience and one attempt
_ALL_DUE = 1_000_000  # a backfill asks for all that it announced, not for a cycle's share


class Runs:
    """Runs one connection at a time for whoever claimed it. ``live``: run id → the run under way.

    ``held``: the connections that are run here, each until its end is stored. ``unsaved``: tokens that are not stored.
    """

    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        net: Net,
        buckets: Buckets,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self.live: dict[int, Live] = {}
        self.held: set[int] = set()
        self.draining = False
        self.unsaved = Unsaved(store, vault)
        self._store, self._vault, self._net, self._buckets = store, vault, net, buckets
        self._metrics, self._now = metrics, now

    async def sync(
        self,
        plan: Plan,
        connection: Connection,
        run_id: int,
        lease: str,
        errand: Errand,
        *,
        stopped: asyncio.CancelledError | None = None,
        slot: Slot | None = None,
        claimed_s: float | None = None,
    ) -> tuple[Live, BaseException | None]:
        """One connection's run: whatever goes wrong with it ends here, as a row, and is answered with what it did.

        ``stopped``: we were cut before it began; it only ends. ``slot``: its place, lent while it waits.
        ``claimed_s``: since when the lease is ours, of the monotonic clock; None: now. Raises CancelledError when it
        was cut.
        """
        claimed_s = time.monotonic() if claimed_s is None else claimed_s
        live = Live(connection, self._now(), claimed_s + self._store.lease.total_seconds(), slot)
        self.live[run_id] = live
        self.held.add(connection.id)
        gauge = self._metrics.running.labels(plan.source.name)
        gauge.inc()
        error: BaseException | None = None
        with structlog.contextvars.bound_contextvars(
            run=run_id, connection=connection.id, workspace=connection.workspace_id
        ):
            try:
                if stopped is None:
                    error = await self._pulled(plan, live, run_id, lease, errand)
            except asyncio.CancelledError as cut:
                stopped = cut
            finally:
                gauge.dec()
                del self.live[run_id]
            if stopped is not None:
                error = Draining("the daemon stopped")
            try:
                # Even a cut run tells its end and frees its lease.
                error = await to_its_end(self._finish(plan, live, run_id, lease, error, errand))
            except asyncio.CancelledError as cut:
                stopped = cut
            finally:
                self.held.discard(connection.id)
        if stopped is not None:
            raise stopped
        return live, error

    async def _pulled(self, plan: Plan, live: Live, run_id: int, lease: str, errand: Errand) -> Exception | None:
        """Read all there is within the time limit; answers what went wrong."""
        limit = asyncio.timeout(plan.run_timeout.total_seconds() + _OVERTIME_S)

        def lost() -> None:
            live.lost = True
            if not limit.expired():
                limit.reschedule(0)  # now: each further call would be made beside the new owner's

        keeper = asyncio.create_task(self.keep_lease(live.connection.id, lease, live=live, lost=lost))
        try:
            async with limit:
                await self._pull(plan, live, run_id, lease, errand)
        except Exception as raised:  # noqa: BLE001 - the one broad except: one workspace never stops another
            if isinstance(raised, TimeoutError) and limit.expired():
                late = RunTimedOut(f"no page within {plan.run_timeout} and {_OVERTIME_S:g} s")
                return LeaseLost() if live.lost else late
            return _of_store(raised)
        finally:
            keeper.cancel()
        return None

    async def _pull(self, plan: Plan, live: Live, run_id: int, lease: str, errand: Errand) -> None:
        """Read every stream of the errand, page by page."""
        connection = live.connection
        credentials = self._vault.open(connection.id, connection.sealed)
        if not errand.regular:
            plan = replace(plan, options={**plan.options, "max_new_per_run": _ALL_DUE})
        link = live.link = self.link(plan, connection, credentials, lease=lease, live=live)
        whose = Whose(plan.source.name, run_id, lease, errand.streams)
        checkpoints = live.checkpoints = Checkpoints(self._store, live, whose, self._metrics)
        learn(link, (await checkpoints.look(link.credential)).budgets)
        since = self.since(plan, connection, live.started_at, errand)
        ends = time.monotonic() + plan.run_timeout.total_seconds()
        async with plan.source.connect(link) as api:
            for stream in errand.streams:
                live.stream = stream.name
                try:
                    pages = await self._read(plan, live, checkpoints, stream, api, since, errand, ends)
                except CursorExpired:
                    log.info("cursor.expired", stream=stream.name)
                    await checkpoints.forget(stream)
                    pages = await self._read(plan, live, checkpoints, stream, api, since, errand, ends)
                while pages and stream.completes and not errand.regular:
                    pages = await self._read(plan, live, checkpoints, stream, api, since, errand, ends)
                if stream.parts:
                    await checkpoints.whole(stream)

    def since(self, plan: Plan, connection: Connection, now: datetime, errand: Errand) -> Since:
        """Where the streams of a run begin, less what each finds of its own."""
        sweep = errand.sweep_due_at is not None
        return Since(
            now=now,
            lookback=plan.sweep_lookback if sweep else plan.lookback,
            cycle_lookback=plan.lookback,
            sweep_lookback=plan.sweep_lookback,
            sweep=sweep,
            sweep_due_at=errand.sweep_due_at,
            held=self._store.looks.of(connection.id),
            began=connection.created_at,
            pass_began=under_way_since(connection.progress, now) if errand.regular else None,
            back_to=errand.back_to,
        )

    async def _read(
        self,
        plan: Plan,
        live: Live,
        checkpoints: Checkpoints,
        stream: Stream,
        api: Any,
        since: Since,
        errand: Errand,
        ends: float,
    ) -> int:
        """Read a stream to its end; answers the number of its pages."""
        since, count = await checkpoints.begin(stream, since), 0
        async with aclosing(stream.read(api, since)) as pages:  # type: ignore[type-var]  # streams are generators
            async for page in pages:
                counts = not stream.completes
                counted = sum(type(record) is plan.source.counts for record in page.records) if counts else 0
                await checkpoints.add(stream, page, since.cursors, counted)
                count += 1
                if page.forget and not errand.regular:
                    continue  # that is how a backfill ends: cut here, it would begin anew
                if self.draining:
                    raise Draining("the daemon is stopping")
                if time.monotonic() > ends:
                    raise RunTimedOut(f"reached its time limit of {plan.run_timeout}")
                if errand.yields_at is not None and self._now() >= errand.yields_at:
                    raise GaveWay("gave way to the connection's regular turn")
        return count

    async def _finish(
        self, plan: Plan, live: Live, run_id: int, lease: str, error: BaseException | None, errand: Errand
    ) -> BaseException | None:
        """Store what still waits and how the run ended; answers what went wrong, by then."""
        connection, checkpoints, waits = live.connection, live.checkpoints, list[Move]()
        try:
            waits += await checkpoints.end() if checkpoints else ()
        except Exception as raised:  # noqa: BLE001 - the run's edge as well
            error = _of_store(raised)
        ended = self._ended(plan, live, error, errand, waits)
        try:
            if live.link is not None:
                await tell(live.link, self._store)  # before the next one can have the connection
            mine = await self._store.cycles.finish_run(run_id, connection, lease, ended)
        except Exception as lost:  # noqa: BLE001 - the run's edge as well
            # The run's row stays `running` and its lease runs out: whoever claims next tells it as interrupted.
            log.error("run.not_finished", error=words(lost))
            self._metrics.ended(plan.source.name, INTERRUPTED, kind_of(_of_store(lost)))
            return error
        if not mine:
            log.warning("lease.lost")
            ended, error = _lost(ended), error or LeaseLost()
        self._metrics.ended(plan.source.name, ended.verdict.run_status, ended.error_kind)
        say_end(live, ended, error)
        return error

    def _ended(
        self, plan: Plan, live: Live, error: BaseException | None, errand: Errand, waits: Sequence[Move]
    ) -> Ended:
        now = self._now()
        secrets = live.link.secrets if live.link else ()
        verdict = judge(error, now=now, next_turn=plan.next_turn(now), failures=live.connection.failures)
        if isinstance(error, RateLimited) and error.ours and not errand.regular:
            verdict = replace(verdict, limited_until=None)  # used up is the backfill's half, not the regular cycles'
        progress = progress_after(
            live.connection.progress,
            live.parts,
            whole=live.whole,
            deferred=verdict.run_status == DEFERRED,
            timed_out=isinstance(error, RunTimedOut),
            began=live.started_at,
            again=_begins_again(plan, live, verdict, now),
        )
        return Ended(
            verdict=verdict,
            error_kind=None if error is None else kind_of(error),
            error=None if error is None else redact(words(error), secrets),
            hint=(redact(error.hint, secrets) or None) if isinstance(error, SourceError) else None,
            calls=live.calls,
            records=live.checkpoints.untold if live.checkpoints else 0,
            swept=errand.sweep_due_at is not None,
            regular=errand.regular,
            limited_by=(error.limit or None) if isinstance(error, RateLimited) else None,
            progress=progress,
            passed=live.whole and progress is not None,
            waits=waits,
            cursors=live.checkpoints.told() if live.checkpoints else None,
        )

    async def keep_lease(
        self, connection_id: int, lease: str, *, live: Live | None = None, lost: Callable[[], None] = lambda: None
    ) -> None:
        """Renew the lease while a stream reads long without a page. ``lost``: called when it is another's."""
        while True:
            await asyncio.sleep(self._store.lease.total_seconds() / 3)
            try:
                with live.renewing(self._store.lease) if live else nullcontext():
                    await self._store.pages.renew(connection_id, lease)
            except LeaseLost:
                return lost()
            except (SQLAlchemyError, OSError) as error:
                log.debug("lease.not_renewed", error=words(error))  # tried again as long as it is ours

    def link(
        self,
        plan: Plan,
        connection: Connection,
        credentials: Mapping[str, Any],
        *,
        lease: str | None = None,
        live: Live | None = None,
    ) -> Link:
        """The connection's way out, with the budget of its credential. ``lease``, ``live``: of the run it is for."""
        renewal = Renewal(
            self._store, self._vault, connection, lease=lease, patience_s=plan.patience_s, unsaved=self.unsaved
        )

        def owned() -> None:
            if live:
                live.owned()
            renewal.ours()

        async def waits(limit: str, seconds: float) -> None:
            if lease is None or not limit:
                return  # what is over is over by its time, without a word
            with suppress(SQLAlchemyError, OSError):  # only for those who watch
                until = self._now() + timedelta(seconds=seconds)
                await self._store.connections.waits(connection.id, lease, limit, until)

        rates, low_rates = plan.limits(connection.settings)
        return Link(
            source=plan.source.name,
            credential=budget(plan.source, connection.id, credentials),
            account=connection.account,
            net=self._net,
            buckets=self._buckets,
            credentials=credentials,
            settings=connection.settings,
            options=plan.options,
            rates=rates,
            low_rates=low_rates,
            low_for_s=plan.low_for_s,
            save=renewal.save,
            alone=renewal.alone,
            patience_s=plan.patience_s,
            now=self._now,
            on_call=partial(self._called, plan.source.name, live),
            slot=live.slot if live else None,
            owned=owned,
            on_wait=waits,
            on_waited=partial(self._metrics.waited, plan.source.name),
        )

    def _called(self, source: str, live: Live | None, method: str, outcome: str, seconds: float) -> None:
        self._metrics.called(source, method, outcome, seconds)
        if live and live.slot and outcome != Transient.kind:
            live.slot.answered()


def _of_store(error: Exception) -> Exception:
    """What went wrong as a run tells it: where the database is away, that is no defect."""
    return StoreFailed(words(error)) if is_outage(error) else error


def _lost(ended: Ended) -> Ended:
    """The end as it was stored where somebody else has the connection by now."""
    verdict = replace(ended.verdict, run_status=INTERRUPTED)
    return replace(ended, verdict=verdict, error_kind=LOST["error_kind"], error=LOST["error"], hint=None, cursors=None)


def _begins_again(plan: Plan, live: Live, verdict: Verdict, now: datetime) -> datetime:
    """When the connection's next run begins: at the first turn at which it is due. A run by hand counts as a turn's."""
    turn = plan.next_turn(now)
    gap = plan.next_turn(turn) - turn
    return max(turn if verdict.next_sync_at <= turn else plan.next_turn(verdict.next_sync_at), live.started_at + gap)


def words(error: BaseException) -> str:
    """An error in words that are safe to store. A defect's own text may hold anything: it gives its place instead."""
    if isinstance(error, SourceError | SealError | StoreFailed | Draining | RunTimedOut | GaveWay):
        return str(error)
    if isinstance(error, LeaseLost):
        return str(LOST["error"])
    if isinstance(error, SQLAlchemyError | OSError):
        return f"database: {database_words(error)}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place} (a defect in syncd; the log has the traceback)"


def told(error: BaseException, secrets: Collection[str] = ()) -> str:
    """An error and its way out as one line for a person."""
    hint = error.hint if isinstance(error, SourceError) else ""
    if isinstance(error, RateLimited):
        hint = hint or f"wait {error.retry_after_s or 60:.0f} s, then try again"
    return redact(f"{words(error)} - {hint}" if hint else words(error), secrets)
