"""How long the status page takes with 10,000 connections: ``python -m benchmarks.status_page [sqlite|postgres …]``.

Made-up rows in SQLite and in a PostgreSQL of its own: 25 runs of each connection, a month of cycles, a backlog, and
of each trouble some hundred connections. Each address is asked for one after the other, by a client on loopback; what
is told is from the request to the answer's last byte, and the processor time of this process meanwhile (the client's
and SQLite's are in it, PostgreSQL's is not). ``/healthz`` is asked while four clients ask for the overview.
Exits 1 when the overview takes more than 300 ms at the median.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy import insert, text

from syncd import logs
from syncd.cli.terminal import out, table
from syncd.credentials import generate_key
from syncd.daemon import open_parts
from syncd.settings import Settings
from syncd.sources import SOURCES
from syncd.tables import backlog, connections, cycles, runs
from syncd.web.server import Web
from tests.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Table

    from syncd.store import Database

CONNECTIONS, RUNS_EACH, BACKLOG = 10_000, 25, 40_000
BOUND_MS, TIMES = 300, 15
ADDRESSES = (
    "/",
    "/?page=50",
    "/?source=gong&trouble=failing",
    "/?state=needs_reauth",
    "/?workspace=customer-77",
    "/connections/5001",
    "/api/v1/status",
)
NOW = datetime.now(UTC)
TURN = timedelta(minutes=15)


def connection(number: int, name: str) -> dict[str, Any]:
    """Of each source a hundredth each waits for a person, is late, is limited; of Gong's nobody answers a tenth."""
    row: dict[str, Any] = {
        "workspace_id": f"customer-{number // 4}", "source": name, "account": f"{number}@example.com",
        "is_active": True, "status": "ok", "settings": {}, "credentials": "sealed", "failures": 0,
        "next_sync_at": NOW + TURN,
        "last_success_at": NOW, "status_since": NOW - timedelta(days=9), "created_at": NOW - timedelta(days=9),
        "updated_at": NOW, "limited_until": None, "limited_by": None, "last_error": None, "last_error_kind": None,
        "last_error_at": None,
    }  # fmt: skip
    kind = number // 4 % 100
    error = {"last_error_at": NOW, "failures": 2}
    if kind == 0:
        row |= error | {
            "status": "needs_reauth",
            "last_error": "token_revoked - install it again",
            "last_error_kind": "auth",
        }
    elif kind == 1:
        row["last_success_at"] = NOW - 3 * TURN
    elif kind == 2:
        row |= {"limited_until": NOW + timedelta(hours=1), "limited_by": "calls"}
    elif name == "gong" and kind < 13:
        row |= error | {"last_error": "calls: HTTP 503", "last_error_kind": "transient"}
    return row


async def fill(database: Database) -> None:
    names = list(itertools.islice(itertools.cycle(SOURCES), CONNECTIONS))
    await _insert(database, connections, (connection(number, name) for number, name in enumerate(names)))
    turns = [NOW - TURN * back for back in range(30 * 96, 0, -1)]
    ways = {"successful_workspaces": 2400, "failed_workspaces": 25, "total": 31_000, "added": 900, "calls": 5000}
    ended = ({"started_at": at, "finished_at": at + timedelta(seconds=90), "turn": at} for at in turns)
    rows = [
        {"source": name, "trigger": "schedule", "status": "success", **one, **ways} for one in ended for name in SOURCES
    ]
    await _insert(database, cycles, rows)
    await _insert(
        database,
        runs,
        (
            {"cycle_id": len(rows) - 4 * (RUNS_EACH - turn) + number % 4, "connection_id": number + 1,
             "status": "failed" if (number + turn) % 50 == 0 else "succeeded", "started_at": turns[turn - RUNS_EACH],
             "finished_at": turns[turn - RUNS_EACH] + timedelta(seconds=3), "records": 12, "calls": 2}
            for turn in range(RUNS_EACH) for number in range(CONNECTIONS)
        ),
    )  # fmt: skip
    await _insert(
        database,
        backlog,
        (
            {"connection_id": number % 2000 + 1, "stream": "transcripts", "external_id": str(number), "attempts": 3,
             "reason": "no transcript yet", "next_try_at": NOW + TURN, "created_at": NOW}
            for number in range(BACKLOG)
        ),
    )  # fmt: skip
    async with database.write() as session:
        await session.execute(text("ANALYZE"))


async def _insert(database: Database, into: Table, rows: Iterable[dict[str, Any]]) -> None:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, 5000)):
        async with database.write() as session:
            await session.execute(insert(into), batch)


Took = list[tuple[float, float]]  # milliseconds: by the clock, of the processor


async def took(http: httpx.AsyncClient, address: str, times: int) -> Took:
    """How long each of so many answers took, after a first one that is not counted."""
    found = []
    for _ in range(times + 1):
        began, spent = time.perf_counter(), time.process_time()
        answer = await http.get(address)
        found.append(((time.perf_counter() - began) * 1000, (time.process_time() - spent) * 1000))
        answer.raise_for_status()
    return found[1:]


def median(all_of: Took, which: int = 0) -> float:
    return statistics.median(one[which] for one in all_of)


async def measured(url: str) -> dict[str, Took]:
    settings = Settings(database={"url": url}, secret_keys=generate_key(), http={"port": 0})
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(open_parts(settings, migrate=True))
        await fill(parts.store.database)
        scheduler = AsyncIOScheduler(timezone="UTC")
        scheduler.start()
        stack.callback(scheduler.shutdown)
        web = Web(parts, scheduler)
        base = await web.start()
        stack.push_async_callback(web.stop)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=base, trust_env=False, timeout=60))
        found = {address: await took(http, address, TIMES) for address in ADDRESSES}
        crowd = [asyncio.create_task(took(http, "/", TIMES)) for _ in range(4)]
        found["/healthz meanwhile"] = await took(http, "/healthz", TIMES)
        await asyncio.gather(*crowd)
    return found


async def main(which: list[str]) -> int:
    found: dict[str, dict[str, Took]] = {}
    with ExitStack() as stack:
        if "sqlite" in which:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="syncd-page-"))
            found["SQLite"] = await measured(f"sqlite+aiosqlite:///{Path(folder) / 'syncd.db'}")
        if "postgres" in which:
            server = stack.enter_context(Postgres())
            db = await asyncpg.connect(server.url("postgres").replace("+asyncpg", ""))
            await db.execute("CREATE DATABASE page")
            await db.close()
            found["PostgreSQL"] = await measured(server.url("page"))
    table(
        ("database", "address", "median ms", "worst ms", "of them processor"),
        (
            (database, address, f"{median(all_of):.0f}", f"{max(all_of)[0]:.0f}", f"{median(all_of, 1):.0f}")
            for database, mine in found.items()
            for address, all_of in mine.items()
        ),
        title=f"{CONNECTIONS:,} connections, {CONNECTIONS * RUNS_EACH:,} runs, {BACKLOG:,} in the backlog",
    )
    slow = [database for database, mine in found.items() if median(mine["/"]) > BOUND_MS]
    for database in slow:
        out.print(f"[red]too slow:[/red] the overview with {database}")
    return 1 if slow else 0


if __name__ == "__main__":
    logs.set_up("error", "auto")
    sys.exit(asyncio.run(main(sys.argv[1:] or ["sqlite", "postgres"])))
