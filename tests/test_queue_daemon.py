"""The queue from the command line: its tables, its settings, daemons and workers as processes."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from asyncpg import InterfaceError, PostgresError
from sqlalchemy import text

from syncd import daemon
from syncd.cli import app
from syncd.credentials import Vault, generate_key
from syncd.doctor import NOT_RUNNING
from syncd.errors import UsageError
from syncd.report import queue_words
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options
from syncd.settings import Settings, load
from syncd.sources import SOURCES
from syncd.store import Database, Line, Store
from syncd.store.driver import Driver
from syncd.store.jobs import Jobs
from tests.process import Daemon, environment, wait_for
from tests.queueing import SCHEMA, forget, queue_url
from tests.test_doctor import answered, cause, facts, row

__all__ = ["queue_url"]

KEY = generate_key()
MakeSandbox = Callable[[Options], Awaitable[Sandbox]]


def settings(url: str, **engine: Any) -> Settings:
    return Settings(database={"url": url}, secret_keys=KEY, http={"port": 0}, engine={"kind": "pgqueuer", **engine})


def env(url: str, box: Sandbox | None = None) -> dict[str, str]:
    """Its turns are half an hour ago and hence: a daemon begins with the last one."""
    cron = f"{(datetime.now(UTC).minute + 30) % 60} * * * *"
    crons = {f"SYNCD_SOURCES__{name.upper()}__CRON": cron for name in SOURCES}
    own = {"SYNCD_DATABASE__URL": url, "SYNCD_SECRET_KEYS": KEY, "SYNCD_HTTP__PORT": "0"}
    return environment(**own, **crons, **(box.environment() if box else {}), SYNCD_ENGINE__KIND="pgqueuer")


async def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    database = Database(url)
    try:
        async with database.read() as session:
            return [tuple(row) for row in await session.execute(text(query))]
    finally:
        await database.close()


def test_a_queue_on_sqlite_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_ENGINE__KIND", "pgqueuer")
    with pytest.raises(UsageError, match=r"engine\.kind pgqueuer needs PostgreSQL: set database\.url"):
        load()


@pytest.mark.parametrize("name", ["public", "pg_queue", "Queue", "a b", "x; drop"])
def test_the_queue_has_a_schema_of_its_own_with_a_plain_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("SYNCD_ENGINE__SCHEMA", name)
    with pytest.raises(UsageError, match=r"engine\.schema: "):
        load()


async def test_without_the_package_a_line_says_how_to_install_it(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'syncd\[pgqueuer\]'"):
        async with daemon.open_store(settings(postgres_url)):
            pass


async def test_workers_of_a_daemon_that_runs_all_itself_are_refused(sqlite_url: str) -> None:
    own = Settings(database={"url": sqlite_url}, secret_keys=KEY)
    with pytest.raises(UsageError, match=r"engine\.kind is local"):
        await daemon.serve(own, schedules=False, works=True)


async def test_before_its_tables_are_made_a_line_says_syncd_migrate(postgres_url: str) -> None:
    with pytest.raises(UsageError, match="the queue has no tables in schema syncd_queue yet: run `syncd migrate`"):
        async with daemon.open_parts(settings(postgres_url), queued=True):
            pass


async def test_tables_of_another_version_are_said_and_migrate_mends_them(queue_url: str) -> None:
    database = Database(queue_url)
    async with database.write() as session:
        await session.execute(text(f"ALTER TABLE {SCHEMA}.pgqueuer DROP COLUMN attempts"))
    with pytest.raises(UsageError, match="of another version of PgQueuer: run `syncd migrate`"):
        async with daemon.open_parts(settings(queue_url), queued=True):
            pass
    async with daemon.open_parts(settings(queue_url), queued=True, migrate=True):
        pass
    await database.close()


async def test_making_the_tables_twice_changes_nothing(queue_url: str) -> None:
    database = Database(queue_url)
    jobs = Jobs(database, SCHEMA, timedelta(seconds=30))
    assert await jobs.install() is False
    await jobs.check()
    await database.close()


async def test_old_rows_of_its_log_are_dropped(queue_url: str) -> None:
    database = Database(queue_url)
    jobs = Jobs(database, SCHEMA, timedelta(seconds=30))
    await jobs.queries().enqueue(["sync_slack"] * 2, [b"{}"] * 2, [0, 0])
    async with database.write() as session:
        await session.execute(text(f"UPDATE {SCHEMA}.pgqueuer_log SET created = now() - interval '25 h' WHERE id = 1"))
    await jobs.prune()
    assert await rows(queue_url, f"SELECT id FROM {SCHEMA}.pgqueuer_log") == [(2,)]
    await database.close()


async def cut_off(database: Database) -> None:
    """End the database connection that sleeps, once it does."""
    sleeps = "FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND wait_event = 'PgSleep'"

    async def cut() -> bool:
        async with database.read() as session:
            return bool((await session.execute(text(f"SELECT pg_terminate_backend(pid) {sleeps}"))).all())

    await wait_for(cut)


async def test_a_statement_whose_connection_is_cut_is_made_again(queue_url: str) -> None:
    database = Database(queue_url)
    asking = asyncio.create_task(Driver(database).fetch("SELECT 1 AS one FROM pg_sleep(0.3)"))
    await cut_off(database)
    assert await asking == [{"one": 1}]
    await database.close()


async def test_once_the_worker_has_to_end_nobody_waits_for_the_database(queue_url: str) -> None:
    database = Database(queue_url)
    driver = Driver(database)
    driver.shutdown.set()
    asking = asyncio.create_task(driver.fetch("SELECT 1 FROM pg_sleep(30)"))
    await cut_off(database)
    with pytest.raises((OSError, PostgresError, InterfaceError)):
        await asking
    await database.close()


async def test_run_once_needs_no_worker(queue_url: str) -> None:
    async with daemon.open_parts(settings(queue_url)) as parts:
        assert (await parts.engine.cycle("slack", trigger="cli"))["status"] == "skipped"


async def test_a_daemon_puts_its_turn_into_the_queue_and_a_worker_process_runs_it(
    postgres_url: str, sandbox: MakeSandbox
) -> None:
    """Both stop well, and what is told of the queue is the same in all places."""
    box = await sandbox(Options(workspaces=1, limits=False, days=1))
    database, own = Database(postgres_url), env(postgres_url, box)
    store = Store(database, lambda: datetime(2020, 1, 1, tzinfo=UTC))
    lines = [Line(**{key: part for key, part in line.items() if key != "is_active"}) for line in box.connections()]
    await store.connections.put(lines, Vault([KEY]).seal)
    async with daemon.open_store(settings(postgres_url), checked=False) as opened:
        await daemon.migrated(opened)
    try:
        async with Daemon(own) as scheduler, Daemon(own, command="worker") as worker:
            checks = (await worker.until("/healthz", 200)).json()["checks"]
            assert checks == {"database": "ok", "scheduler": "ok", "worker": "ok"}
            assert (await worker.get("/")).status_code == 404
            assert (await worker.get("/api/v1/status")).status_code == 404

            async def told() -> bool:
                return "syncd_queue_workers 1.0" in (await worker.get("/metrics")).text

            await wait_for(told)

            async def ended() -> bool:
                return len(await rows(postgres_url, "SELECT 1 FROM cycles WHERE status = 'success'")) == len(SOURCES)

            await wait_for(ended)
            assert (await scheduler.get("/api/v1/status")).json()["queue"]["workers"] == 1
            assert "Queue: 1 worker, 0 under way." in (await scheduler.get("/")).text
            for one in (worker, scheduler):
                one.process.send_signal(signal.SIGTERM)
                assert await one.process.wait() == 0, one.lines
        succeeded = await rows(postgres_url, "SELECT COUNT(*) FROM runs WHERE status = 'succeeded'")
        assert succeeded == [(len(SOURCES),)]
    finally:
        await forget(database)
        await database.close()


def test_the_queue_in_words() -> None:
    told = {"workers": 3, "queued": 12, "picked": 40, "oldest_waiting_s": 2.1, "repeated_deliveries": 1}
    assert queue_words(told) == "3 workers, 12 jobs wait, the first for 2 s, 40 under way, 1 came again in the last day"
    told = {"workers": 1, "queued": 0, "picked": 0, "oldest_waiting_s": None, "repeated_deliveries": 0}
    assert queue_words(told) == "1 worker, 0 under way"


def test_jobs_that_no_worker_takes_are_found_by_the_doctor() -> None:
    told = {"workers": 0, "queued": 12, "picked": 0, "oldest_waiting_s": 300.0, "repeated_deliveries": 0}
    given = facts(row(1))
    found = cause(replace(given, report={**given.report, "queue": told}), NOT_RUNNING)
    assert found.seen == "queue: 0 workers, 12 jobs wait, the first for 5 min, 0 under way"
    assert "syncd worker" in found.way_out
    well = answered(replace(given, report={**given.report, "queue": told | {"workers": 1}}))[NOT_RUNNING]
    assert well.cause is None


@pytest.mark.parametrize("file", ["compose.yaml", "kubernetes.yaml"])
def test_the_examples_name_settings_and_commands_that_are(file: str) -> None:
    written = (Path(__file__).parents[1] / "deploy" / file).read_text()
    parts = list(yaml.safe_load_all(written))
    assert parts
    known = {info.name for info in app.registered_commands if info.name} | {
        info.callback.__name__ for info in app.registered_commands if info.callback
    }
    commands = re.findall(r"(?:command|args): \[(\w+)\]", written)
    assert {"migrate", "serve", "worker"} == set(commands) <= known
    for name in set(re.findall(r"SYNCD_[A-Z_]+", written)):
        found: Any = Settings
        for part in name.removeprefix("SYNCD_").lower().split("__"):
            found = found.model_fields[part].annotation
