"""The daemon as a real process: HTTP, signals, systemd, databases that go away."""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from syncd.credentials import Vault, generate_key
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options
from syncd.sources import SOURCES
from syncd.store import Database, Line, Store
from tests.postgres import Postgres
from tests.process import Daemon, command, environment, wait_for

KEY = generate_key()
MakeSandbox = Callable[[Options], Awaitable[Sandbox]]


def env(url: str, **values: str) -> dict[str, str]:
    """A daemon's settings. Its turns are half an hour ago and hence: none comes while a test looks."""
    cron = f"{(datetime.now(UTC).minute + 30) % 60} * * * *"
    crons = {f"SYNCD_SOURCES__{name.upper()}__CRON": cron for name in SOURCES}
    return environment(SYNCD_DATABASE__URL=url, SYNCD_SECRET_KEYS=KEY, SYNCD_HTTP__PORT="0", **(crons | values))


class Scene:
    """A sandbox, its connections in a database, all of them due since long."""

    def __init__(self, box: Sandbox, url: str, database: Database) -> None:
        self.box, self.url, self.database = box, url, database
        self.env = env(url, **box.environment())

    async def all(self, query: str) -> list[tuple[Any, ...]]:
        async with self.database.read() as session:
            return [tuple(row) for row in await session.execute(text(query))]

    async def one(self, query: str) -> Any:
        return (await self.all(query))[0][0]


@pytest.fixture
async def scene(database_url: str, sandbox: MakeSandbox) -> AsyncIterator[Scene]:
    box = await sandbox(Options(workspaces=3, limits=False))
    database = Database(database_url)
    store = Store(database, lambda: datetime(2020, 1, 1, tzinfo=UTC))
    lines = [Line(**{key: part for key, part in line.items() if key != "is_active"}) for line in box.connections()]
    await store.connections.put(lines, Vault([KEY]).seal)
    yield Scene(box, database_url, database)
    await database.close()


async def test_healthz_is_as_promised(sqlite_url: str) -> None:
    async with Daemon(env(sqlite_url)) as daemon:
        answer = await daemon.get("/healthz")
        body = answer.json()
    assert answer.status_code == 200
    assert body == {
        "status": "healthy",
        "timestamp": body["timestamp"],
        "service": "sync_engine",
        "checks": {"database": "ok", "scheduler": "ok"},
    }
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None


async def test_the_other_addresses_answer(sqlite_url: str) -> None:
    async with Daemon(env(sqlite_url)) as daemon:
        await daemon.until("/readyz", 200)
        assert "syncd_build_info" in (await daemon.get("/metrics")).text
        page = await daemon.get("/")
        assert " · syncd</title>" in page.text
        assert "script-src 'self';" in page.headers["content-security-policy"]
        assert (await daemon.get("/nothing")).status_code == 404


async def test_a_running_daemon_measures_its_loop_and_reads_its_database_for_metrics(sqlite_url: str) -> None:
    async def measured() -> bool:
        lines = (await daemon.get("/metrics")).text.splitlines()
        return "syncd_database_up 1.0" in lines and "syncd_event_loop_lag_seconds_count 0.0" not in lines

    async with Daemon(env(sqlite_url)) as daemon:
        await wait_for(measured)


async def test_the_daemon_listens_on_loopback_only(sqlite_url: str) -> None:
    async with Daemon(env(sqlite_url)) as daemon:
        assert daemon.base.startswith("http://127.0.0.1:")


async def test_the_four_jobs_have_their_ids(sqlite_url: str) -> None:
    async with Daemon(env(sqlite_url, SYNCD_LOG__FORMAT="json")) as daemon:
        await daemon.until("/readyz", 200)
        started = next(line for line in map(orjson.loads, daemon.lines) if line["event"] == "daemon.started")
    assert set(started["jobs"]) == {f"sync_{name}_periodic" for name in ("slack", "gong", "fathom", "gmail")}


async def test_a_turn_missed_while_down_is_caught_up(scene: Scene) -> None:
    async def done() -> bool:
        return bool(await scene.one("SELECT COUNT(*) FROM cycles WHERE status = 'success'") == 4)

    async with Daemon(scene.env) as daemon:
        await wait_for(done)
        report = (await daemon.get("/api/v1/status")).json()
        assert await daemon.stop() == 0
    assert {one["state"] for one in report["connections"]} == {"ok"}
    assert len(report["connections"]) == 12


async def test_the_api_answers_what_the_command_prints(scene: Scene) -> None:
    async def done() -> bool:
        return bool(await scene.one("SELECT COUNT(*) FROM cycles WHERE status = 'success'") == 4)

    async with Daemon(scene.env) as daemon:
        await wait_for(done)
        api = (await daemon.get("/api/v1/status")).json()
        _, printed, _ = await command(scene.env, "status", "--json")
    assert {**orjson.loads(printed), "timestamp": None} == {**api, "timestamp": None}


async def test_ctrl_c_ends_as_sigterm_does(sqlite_url: str) -> None:
    async with Daemon(env(sqlite_url)) as daemon:
        await daemon.until("/readyz", 200)
        assert await daemon.stop(signal.SIGINT) == 0


async def test_a_signal_in_mid_cycle_drains_and_the_next_cycle_completes_the_rest(scene: Scene) -> None:
    scene.box.world.faults.add({"kind": "slow", "seconds": 0.1})

    async def reading() -> bool:
        return bool(await scene.one("SELECT COUNT(*) FROM runs WHERE status = 'running' AND calls > 0") > 0)

    async with Daemon(scene.env) as daemon:
        await wait_for(reading)
        began = asyncio.get_running_loop().time()
        assert await daemon.stop() == 0
        assert asyncio.get_running_loop().time() - began < 20
    assert await scene.one("SELECT COUNT(*) FROM connections WHERE lease IS NOT NULL") == 0
    assert await scene.one("SELECT COUNT(*) FROM runs WHERE status = 'running'") == 0
    assert await scene.one("SELECT COUNT(*) FROM runs WHERE status = 'interrupted'") > 0

    scene.box.world.faults.rules.clear()
    code, printed, _ = await command(scene.env, "run-once", "--source", "all", "--json")
    assert code == 0
    assert [status["failed_workspaces"] for status in orjson.loads(printed)] == [0, 0, 0, 0]
    code, printed, _ = await command(scene.env, "run-once", "--source", "all", "--json")
    assert [(one["added"], one["changed"]) for one in orjson.loads(printed)] == [(0, 0)] * 4


async def test_a_run_that_hangs_is_cut_after_the_grace(scene: Scene) -> None:
    scene.box.world.faults.add({"kind": "hang", "seconds": 60})

    async def running() -> bool:
        return bool(await scene.one("SELECT COUNT(*) FROM runs WHERE status = 'running'") > 0)

    async with Daemon(scene.env | {"SYNCD_GRACE": "1s"}) as daemon:
        await wait_for(running)
        assert await daemon.stop() == 0
    assert await scene.one("SELECT COUNT(*) FROM connections WHERE lease IS NOT NULL") == 0


async def test_healthz_names_the_database_while_it_is_away_and_recovers() -> None:
    with Postgres() as server:
        async with Daemon(env(server.url("postgres")), "--migrate") as daemon:
            await daemon.until("/healthz", 200)
            server.stop()
            answer = await daemon.until("/healthz", 503)
            assert answer.json()["status"] == "unhealthy"
            assert answer.json()["checks"]["database"] != "ok"
            assert answer.json()["checks"]["scheduler"] == "ok"
            server.start()
            await daemon.until("/healthz", 200)
            assert await daemon.stop() == 0


async def test_systemd_is_told_when_it_asks(sqlite_url: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        notified = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        async with Daemon(env(sqlite_url, **notified)) as daemon:
            await daemon.until("/readyz", 200)
            await daemon.stop()
        told = []
        while "STOPPING=1" not in told:
            told.append(systemd.recv(100).decode())
    assert told[0] == "READY=1"
    assert "WATCHDOG=1" in told


async def test_a_database_that_goes_away_in_mid_cycle_costs_one_line_a_source(
    sandbox: MakeSandbox, tmp_path: Path
) -> None:
    """And the daemon goes on when it is back."""
    box = await sandbox(Options(workspaces=3, limits=False))
    with Postgres() as server:
        theirs = env(server.url("postgres"), SYNCD_LOG__FORMAT="json", **box.environment())
        await command(theirs, "migrate")
        lines = b"".join(orjson.dumps(line) + b"\n" for line in box.connections())
        await command(theirs, "connections", "import", "-", stdin=lines)
        box.world.faults.add({"kind": "slow", "seconds": 0.3})

        async def reading() -> bool:
            return bool(box.world.counts)

        async with Daemon(theirs) as daemon:
            await wait_for(reading)
            server.stop()
            await daemon.until("/healthz", 503)
            server.start()
            await daemon.until("/healthz", 200)
            assert await daemon.stop() == 0
        told = [orjson.loads(line) for line in daemon.lines]
    assert not [line for line in told if "never retrieved" in line["event"] or "exception" in line]


async def test_a_full_disk_ends_a_run_in_one_line(sandbox: MakeSandbox, sqlite_url: str) -> None:
    """All four sources at once: the first error must not close the database under the others."""
    box = await sandbox(Options(workspaces=3, limits=False))
    theirs = env(sqlite_url, **box.environment())
    lines = b"".join(orjson.dumps(line) + b"\n" for line in box.connections())
    assert (await command(theirs, "connections", "import", "-", stdin=lines))[0] == 0
    file = sqlite_url.removeprefix("sqlite+aiosqlite:///")
    with sqlite3.connect(file) as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
    limited = f"ulimit -f {pages * 4 + 60}; exec {sys.executable} -m syncd run-once --source all --json"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", limited, env=theirs, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    lines_said = [line for line in err.decode().splitlines() if line.startswith("error:")]
    assert process.returncode in {1, 2}
    assert "Traceback" not in err.decode()
    assert len(lines_said) == (process.returncode == 2)
    assert out or lines_said


async def test_a_busy_port_is_one_line(sqlite_url: str) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        taken = env(sqlite_url) | {"SYNCD_HTTP__PORT": str(busy.getsockname()[1])}
        code, _, err = await command(taken, "serve")
    assert code == 2
    assert err.count("\n") == 1
    assert "http.port" in err


async def test_an_update_through_the_old_view_stops_a_connection_from_the_next_cycle_on(
    postgres_url: str, sandbox: MakeSandbox
) -> None:
    box = await sandbox(Options(workspaces=2, limits=False))
    theirs = env(postgres_url, **box.environment())
    lines = b"".join(orjson.dumps(line) + b"\n" for line in box.connections())
    assert (await command(theirs, "connections", "import", "-", stdin=lines))[0] == 0
    database = Database(postgres_url)
    async with database.write() as session:
        await session.execute(text("UPDATE integrations SET is_active = false WHERE workspace_id = 'acme'"))
    await database.close()
    _, printed, _ = await command(theirs, "run-once", "--source", "slack", "--json")
    assert orjson.loads(printed)["successful_workspaces"] == 1


async def test_one_revoked_token_and_one_failing_vendor_leave_the_others_alone(scene: Scene) -> None:
    scene.box.slack.act("northwind", "revoke", {})
    scene.box.world.faults.add({"kind": "500", "vendor": "gong"})
    patient = scene.env | {"SYNCD_SOURCES__GONG__PATIENCE": "0s"}
    code, printed, _ = await command(patient, "run-once", "--source", "all", "--json")
    statuses = {one["source"]: one for one in orjson.loads(printed)}
    assert code == 1
    assert [statuses[name]["failed_workspaces"] for name in ("slack", "gong", "fathom", "gmail")] == [1, 3, 0, 0]
    assert statuses["slack"]["successful_workspaces"] == 2
    (failure,) = statuses["slack"]["failures"]
    assert (failure["workspace_id"], failure["kind"]) == ("northwind", "auth")
    _, shown, _ = await command(patient, "status")
    assert "needs reauth" in shown
    assert "HTTP 500" in shown
