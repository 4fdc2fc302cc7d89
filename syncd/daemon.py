"""The composition root: settings → store → engine → jobs → HTTP → signals. Nothing else reads settings."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy.exc import SQLAlchemyError

from syncd import logs
from syncd import settings as settings_module
from syncd.clock import watch_clock
from syncd.credentials import Vault
from syncd.engine import Engine
from syncd.errors import SealError, UsageError
from syncd.limits import Buckets
from syncd.metrics import Metrics
from syncd.net import Net
from syncd.plan import Plan
from syncd.settings import Settings, cron_trigger, shown_url
from syncd.sources import SOURCES
from syncd.store import Database, Store
from syncd.store.database import SchemaError, database_words
from syncd.tasks import all_of
from syncd.web.server import Web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

log = structlog.get_logger(__name__)

JOB_IDS = {name: f"sync_{name}_periodic" for name in SOURCES}
_OWN_OPTIONS = {"enabled", "cron", "concurrency", "sweep_every", "sweep_lookback", "run_timeout", "patience", "limits"}
_OWN_OPTIONS |= {"low_limits", "low_for", "oauth"}

_OPEN_FILES = 65536  # more than four sources can ever use


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

    def next_turn(after: datetime) -> datetime:
        fires: datetime | None = trigger.get_next_fire_time(None, after + timedelta(microseconds=1))
        return fires or after + timedelta(hours=24)

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
        last_turn=partial(last_turn, trigger),
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
        yield Store(database, now, settings.lease)
    finally:
        await database.close()


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
    settings: Settings, *, migrate: bool = False, halved: bool = False, now: Callable[[], datetime] = utc_now
) -> AsyncIterator[Parts]:
    """Store, keys, clients and engine, closed in the reverse order. ``halved``: it takes half of each limit."""
    vault = Vault(settings.keys())
    async with open_store(settings, checked=not migrate, now=now) as store, Net() as net:
        if migrate:
            try:
                await store.database.migrate()
            except Exception as error:  # noqa: BLE001 - as above
                raise unreachable(settings, error) from None
        metrics = Metrics()
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
        )
        yield Parts(settings, store, vault, engine, metrics)


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
    for connection in await parts.store.connections.all():
        if connection.is_active and connection.sealed:
            try:
                parts.vault.open(connection.id, connection.sealed)
            except SealError as error:
                refused = refused or error
            else:
                return
    if refused is not None:
        raise UsageError(str(refused))


async def serve(settings: Settings, *, migrate: bool = False, ready: Callable[[str], None] = lambda _: None) -> None:
    """The daemon, until SIGTERM or SIGINT. ``ready`` is told the HTTP address.

    Raises UsageError when it cannot start.
    """
    raise_open_files()
    async with open_parts(settings, migrate=migrate) as parts:
        await check_keys(parts)
        scheduler = make_scheduler(settings, parts.engine)
        web = Web(parts, scheduler)
        try:
            address = await web.start()
        except (OSError, UnicodeError) as error:
            where = f"{settings.http.host}:{settings.http.port}"
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"http {where} cannot be bound: {why}; set http.host or http.port (0 = any)") from None
        try:
            await _until_signal(settings, parts, scheduler, web, lambda: ready(address))
        finally:
            await web.stop()
    log.info("daemon.stopped")


async def _until_signal(
    settings: Settings, parts: Parts, scheduler: AsyncIOScheduler, web: Web, ready: Callable[[], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    scheduler.start()
    web.ready = True
    watches = [
        asyncio.create_task(_feed_watchdog()),
        asyncio.create_task(watch_clock(lambda: plan_anew(settings, parts, scheduler))),
    ]
    notify_systemd("READY=1")
    log.info("daemon.started", jobs={job.id: job.next_run_time.isoformat() for job in scheduler.get_jobs()})
    ready()
    await _catch_up(settings, parts)
    await stop.wait()
    web.ready = False
    notify_systemd("STOPPING=1")
    log.info("daemon.draining", grace_s=settings.grace.total_seconds())
    scheduler.pause()
    await parts.engine.drain(settings.grace.total_seconds())
    scheduler.shutdown(wait=False)
    for watch in watches:
        watch.cancel()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


def make_scheduler(settings: Settings, engine: Engine) -> AsyncIOScheduler:
    """The four jobs. A job only starts a cycle; APScheduler would cancel what runs inside it at shutdown."""
    scheduler = AsyncIOScheduler(timezone="UTC")
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


async def _catch_up(settings: Settings, parts: Parts) -> None:
    """Start the cycle of each source's last turn where no daemon did: a restart must not cost a turn."""
    for name in SOURCES:
        mine = getattr(settings.sources, name)
        turn = last_turn(cron_trigger(mine.cron), utc_now())
        try:
            if mine.enabled and not await parts.store.cycles.has(name, turn):
                parts.engine.start_cycle(name, turn)
        except (SQLAlchemyError, OSError) as error:
            log.warning("catch_up.failed", source=name, error=database_words(error))  # the next turn tries again


async def plan_anew(settings: Settings, parts: Parts, scheduler: AsyncIOScheduler) -> None:
    """The clock was set: the jobs' next turns were computed from what it said before."""
    for job in scheduler.get_jobs():
        job.reschedule(job.trigger)
    await _catch_up(settings, parts)


def raise_open_files() -> None:
    """Allow ourselves as many open files as we may have: each run that waits for its vendor holds a socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # then the limit stays what it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def notify_systemd(state: str) -> None:
    """Tell systemd, when it asks by NOTIFY_SOCKET (a path, or an abstract socket that starts with @)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(state.encode())


async def _feed_watchdog() -> None:
    """From the loop on purpose: when the loop hangs, systemd shall restart us."""
    interval_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 1_000_000 / 2
    while interval_s:
        notify_systemd("WATCHDOG=1")
        await asyncio.sleep(interval_s)
