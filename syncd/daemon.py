"""The composition root: settings → store → engine → jobs → HTTP → signals. Nothing else reads settings."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from collections import deque
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy.exc import SQLAlchemyError

from syncd import logs
from syncd import settings as settings_module
from syncd.alerting import alerting
from syncd.clock import watch_clock
from syncd.credentials import Vault
from syncd.engine import Engine
from syncd.errors import SealError, UsageError
from syncd.gauges import Gauges
from syncd.limits import Buckets
from syncd.local import Local
from syncd.metrics import Metrics, watch_lag
from syncd.net import Net
from syncd.plan import Plan
from syncd.process import feed_watchdog, notify_systemd, raise_open_files
from syncd.queue import Queue
from syncd.settings import Settings, cron_trigger, shown_url
from syncd.sources import SOURCES
from syncd.store import Database, Store
from syncd.store.database import SchemaError, database_words
from syncd.store.jobs import Jobs
from syncd.tasks import all_of
from syncd.web.connect import public_url
from syncd.web.server import Web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from syncd.dispatch import Dispatch
    from syncd.worker import Worker

log = structlog.get_logger(__name__)

JOB_IDS = {name: f"sync_{name}_periodic" for name in SOURCES}
_OWN_OPTIONS = {"enabled", "cron", "concurrency", "sweep_every", "sweep_lookback", "run_timeout", "patience", "limits"}
_OWN_OPTIONS |= {"low_limits", "low_for", "oauth"}


@dataclass(frozen=True, slots=True)
class Parts:
    """The running parts of one process."""

    settings: Settings
    store: Store
    vault: Vault
    engine: Engine
    metrics: Metrics


def utc_now() -> datetime:
    return datetime.now(UTC)


def plan(settings: Settings, name: str) -> Plan:
    """How the source of that name is run, of the settings."""
    mine = getattr(settings.sources, name)
    trigger = cron_trigger(mine.cron)

    found = deque[tuple[datetime, datetime]](maxlen=4)  # each run's end asks for the same few again

    def next_turn(after: datetime) -> datetime:
        for since, turn in found:
            if since <= after < turn:
                return turn
        fires: datetime | None = trigger.get_next_fire_time(None, after + timedelta(microseconds=1))
        if fires is None:
            return after + timedelta(hours=24)
        found.append((after, fires))
        return fires

    @lru_cache(maxsize=16)  # the status page, metrics and alerts ask for the same few again and again
    def last_turn_of(minute: datetime) -> datetime:
        return last_turn(trigger, minute)

    return Plan(
        source=SOURCES[name],
        slots=mine.concurrency,
        lookback=mine.lookback,
        sweep_every=mine.sweep_every,
        sweep_lookback=mine.sweep_lookback,
        run_timeout=mine.run_timeout,
        patience_s=mine.patience.total_seconds(),
        options={key: getattr(mine, key) for key in type(mine).model_fields if key not in _OWN_OPTIONS},
        rates=mine.limits,
        low_rates=getattr(mine, "low_limits", {}),
        low_for_s=getattr(mine, "low_for", timedelta(0)).total_seconds(),
        next_turn=next_turn,
        last_turn=lambda now: last_turn_of(now.replace(second=0, microsecond=0)),
    )


@asynccontextmanager
async def open_store(
    settings: Settings, *, checked: bool = True, now: Callable[[], datetime] = utc_now
) -> AsyncIterator[Store]:
    """The database of the settings. Raises UsageError in one line when it cannot be used."""
    database = Database(settings.database.url.get_secret_value(), pool_size=settings.database.pool_size)
    try:
        try:
            if checked:
                await database.check_schema()
            else:
                await database.ping()
        except Exception as error:  # noqa: BLE001 - drivers and Alembic each raise their own
            raise unreachable(settings, error) from None
        yield Store(database, now, settings.lease, jobs_of(settings, database))
    finally:
        await database.close()


def jobs_of(settings: Settings, database: Database) -> Jobs | None:
    """The queue of the settings. Raises UsageError where its package is not installed."""
    if settings.engine.kind != "pgqueuer":
        return None
    if importlib.util.find_spec("pgqueuer") is None:
        raise UsageError("engine.kind pgqueuer needs the package of that name: pip install 'syncd[pgqueuer]'")
    return Jobs(database, settings.engine.in_schema, settings.engine.heartbeat)


def unreachable(settings: Settings, error: Exception) -> UsageError:
    """One line for a database that cannot be used, with a way out and without its password."""
    words = database_words(error)
    if "disk is full" in words or "No space left" in words:
        way_out = "; free some space, then go on: nothing that was stored is lost"
    elif isinstance(error, SchemaError):
        way_out = ""
    else:
        way_out = "; is it there and running, and is database.url right?"
    return UsageError(f"database {shown_url(settings)}: {words}{way_out}")


@asynccontextmanager
async def open_parts(
    settings: Settings,
    *,
    migrate: bool = False,
    halved: bool = False,
    queued: bool = False,
    now: Callable[[], datetime] = utc_now,
) -> AsyncIterator[Parts]:
    """Store, keys, clients and engine, closed in the reverse order. ``halved``: it takes half of each limit.

    ``queued``: workers run its cycles where the settings say so; else it runs them itself.
    """
    vault = Vault(settings.keys())
    async with open_store(settings, checked=not migrate, now=now) as store, Net() as net:
        if migrate:
            try:
                await migrated(store)
            except Exception as error:  # noqa: BLE001 - as above
                raise unreachable(settings, error) from None
        dispatch: Callable[[Engine], Dispatch] = Local
        if queued and store.jobs is not None:
            try:
                await store.jobs.check()
            except Exception as error:  # noqa: BLE001 - as above
                raise unreachable(settings, error) from None
            dispatch = partial(Queue, store, store.jobs)
        metrics = Metrics(SOURCES)
        plans = {name: plan(settings, name) for name in SOURCES}
        engine = Engine(
            plans={name: one.halved() for name, one in plans.items()} if halved else plans,
            store=store,
            vault=vault,
            net=net,
            buckets=Buckets(reserve=store.budgets.reserve),
            metrics=metrics,
            now=now,
            history=settings.history,
            dispatch=dispatch,
        )
        gauges = Gauges(store, engine, settings)
        metrics.add(gauges, gauges.look)
        try:
            yield Parts(settings, store, vault, engine, metrics)
        finally:
            await gauges.close()
            await engine.runs.unsaved.close()


async def migrated(store: Store) -> tuple[str | None, str]:
    """Create or upgrade the schema, and the queue's; answers the first's revision before and now."""
    revisions = await store.database.migrate()
    if store.jobs is not None:
        await store.jobs.install()
    return revisions


async def run_once(source: str, *, workspace: str | None = None, sweep: bool = False) -> Any:
    """One cycle now, with the settings in force; the status object of `syncd run-once --json`, a list for ``all``.

    Raises UsageError on an unknown source, bad settings or an unreachable database.
    """
    logs.for_library()
    if source != "all" and source not in SOURCES:
        raise UsageError(f"unknown source {source!r}; known: {', '.join(SOURCES)}, all")
    names = list(SOURCES) if source == "all" else [source]
    async with open_parts(settings_module.load()) as parts:
        await check_keys(parts)
        cycles = [parts.engine.cycle(name, trigger="api", workspace=workspace, sweep=sweep) for name in names]
        results = await all_of(cycles)
    return results if source == "all" else results[0]


async def check_keys(parts: Parts) -> None:
    """Raises UsageError when none of the stored credentials can be opened: better at the start than at every run.

    A single one that cannot be opened is its own run's failure and stops nobody.
    """
    refused: SealError | None = None
    async with aclosing(parts.store.connections.sealed()) as held:
        async for connection_id, sealed in held:
            try:
                parts.vault.open(connection_id, sealed)
            except SealError as error:
                refused = refused or error
            else:
                return
    if refused is not None:
        raise UsageError(str(refused))


async def serve(
    settings: Settings,
    *,
    migrate: bool = False,
    schedules: bool = True,
    works: bool = False,
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """The daemon, until SIGTERM or SIGINT. ``ready`` is told the HTTP address.

    ``schedules``: it starts the cycles; ``works``: it runs what is in the queue. Raises UsageError when it cannot
    start.
    """
    if works and settings.engine.kind == "local":
        raise UsageError("engine.kind is local: `syncd serve` runs all itself; workers need pgqueuer there")
    raise_open_files()
    async with open_parts(settings, migrate=migrate, queued=True) as parts:
        await check_keys(parts)
        scheduler = make_scheduler(settings, parts.engine, schedules=schedules)
        worker = make_worker(parts) if works else None
        web = Web(parts, scheduler, worker)
        try:
            address = await web.start()
        except (OSError, UnicodeError) as error:
            where = f"{settings.http.host}:{settings.http.port}"
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"http {where} cannot be bound: {why}; set http.host or http.port (0 = any)") from None
        link = (settings.alerts.link or public_url(settings, address)).rstrip("/")
        try:
            tells = alerting(settings, parts.store, parts.engine.plans, link) if schedules else nullcontext()
            async with tells:
                await _until_signal(settings, parts, scheduler, web, lambda: ready(address), worker)
        finally:
            await web.stop()
    log.info("daemon.stopped")


async def _until_signal(
    settings: Settings,
    parts: Parts,
    scheduler: AsyncIOScheduler,
    web: Web,
    ready: Callable[[], None],
    worker: Worker | None,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    scheduler.start()
    if worker is not None:
        worker.start()
    web.ready = True
    watches = [
        asyncio.create_task(feed_watchdog()),
        asyncio.create_task(watch_lag(parts.metrics)),
        asyncio.create_task(watch_clock(lambda: plan_anew(settings, parts, scheduler))),
    ]
    notify_systemd("READY=1")
    log.info("daemon.started", jobs={job.id: job.next_run_time.isoformat() for job in scheduler.get_jobs()})
    ready()
    await _catch_up(settings, parts, scheduler)
    await stop.wait()
    web.ready = False
    notify_systemd("STOPPING=1")
    log.info("daemon.draining", grace_s=settings.grace.total_seconds())
    scheduler.pause()
    grace_s = settings.grace.total_seconds()
    await all_of([parts.engine.drain(grace_s), *([worker.drain(grace_s)] if worker else [])])
    scheduler.shutdown(wait=False)
    for watch in watches:
        watch.cancel()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


def make_worker(parts: Parts) -> Worker:
    """It takes the jobs of the sources that are on."""
    from syncd.worker import Worker

    jobs = parts.store.jobs
    assert jobs is not None  # noqa: S101 - `serve` has looked
    on = [name for name in SOURCES if getattr(parts.settings.sources, name).enabled]
    return Worker(parts.engine, parts.store, jobs, sources=on)


def make_scheduler(settings: Settings, engine: Engine, *, schedules: bool = True) -> AsyncIOScheduler:
    """The four jobs. A job only starts a cycle; APScheduler would cancel what runs inside it at shutdown."""
    scheduler = AsyncIOScheduler(timezone="UTC")
    if not schedules:
        return scheduler
    for name, job_id in JOB_IDS.items():
        mine = getattr(settings.sources, name)
        if mine.enabled:
            trigger = cron_trigger(mine.cron)
            scheduler.add_job(
                _start_cycle,
                trigger,
                args=[engine, name, trigger],
                id=job_id,
                coalesce=True,
                max_instances=1,
                misfire_grace_time=600,
            )
    return scheduler


async def _start_cycle(engine: Engine, name: str, trigger: Any) -> None:
    engine.start_cycle(name, last_turn(trigger, utc_now()))


def last_turn(trigger: Any, now: datetime) -> datetime:
    """The last moment of a crontab line that is not in the future; every daemon computes the same."""
    turn: datetime | None
    for back in (timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=366)):
        turn = trigger.get_next_fire_time(None, now - back)
        if turn is not None and turn <= now:
            break
    else:
        return now
    while (later := trigger.get_next_fire_time(None, turn + timedelta(seconds=1))) is not None and later <= now:
        turn = later
    return turn


async def _catch_up(settings: Settings, parts: Parts, scheduler: AsyncIOScheduler) -> None:
    """Start the cycle of each source's last turn where no daemon did: a restart must not cost a turn."""
    if not scheduler.get_jobs():
        return
    for name in SOURCES:
        mine = getattr(settings.sources, name)
        turn = last_turn(cron_trigger(mine.cron), utc_now())
        try:
            # one that is in the queue goes on without who began it, but somebody has to end it
            if mine.enabled and not await parts.store.cycles.has(name, turn, ended=parts.store.jobs is not None):
                parts.engine.start_cycle(name, turn)
        except (SQLAlchemyError, OSError) as error:
            log.warning("catch_up.failed", source=name, error=database_words(error))  # the next turn tries again


async def plan_anew(settings: Settings, parts: Parts, scheduler: AsyncIOScheduler) -> None:
    """The clock was set: the jobs' next turns were computed from what it said before."""
    for job in scheduler.get_jobs():
        job.reschedule(job.trigger)
    await _catch_up(settings, parts, scheduler)
