"""What an idle run costs the process: ``python -m benchmarks.idle_run [--database URL] [--workspaces N] [--profile]``.

Nothing is in the windows; with ``--day`` a day's messages, calls and meetings are, which each cycle reads again. Each
source reads ``N`` workspaces of the sandbox, which is another process, so that only syncd's own CPU counts. All is
read and ripe; then come cycles, a quarter of an hour apart, in which nothing is new. Told for each source: CPU time,
statements, transactions and calls per run, as the median of the cycles. A cycle's own cost is in them, divided by its
runs.

SQLite in a temporary folder, or the empty PostgreSQL database of ``--database``; with ``--profile`` what cProfile says
of the measured cycles goes to standard error (it makes all slower: read the shares, not the times).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import multiprocessing
import pstats
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import aiohttp
from sqlalchemy import event

from syncd import logs
from syncd.cli.terminal import out, table
from syncd.credentials import generate_key
from syncd.daemon import open_parts
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options, StandingClock, World
from syncd.settings import Settings
from syncd.sources import SOURCES
from syncd.store import Line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection as Pipe

    from syncd.daemon import Parts
    from syncd.store import Database

BORN = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
TURN = timedelta(minutes=15)
RIPE, DAY = (timedelta(days=3), TURN, TURN), (timedelta(hours=6), TURN, TURN)
TURNS = 5
SIZES: dict[str, Any] = {
    "days": 1, "channels": 2, "messages_per_day": 3, "calls_per_day": 1, "meetings_per_day": 1, "mails_per_day": 2,
}  # fmt: skip


@dataclass(slots=True)
class Counts:
    """What a database was asked since it was counted."""

    statements: int = 0
    transactions: int = 0


@contextmanager
def counted(database: Database) -> Iterator[Counts]:
    """Counts what goes through the database's engine."""
    counts = Counts()

    def statement(*_: object) -> None:
        counts.statements += 1

    def transaction(*_: object) -> None:
        counts.transactions += 1

    engine = database.engine.sync_engine
    heard = (("before_cursor_execute", statement), ("begin", transaction))
    for name, listener in heard:
        event.listen(engine, name, listener)
    try:
        yield counts
    finally:
        for name, listener in heard:
            event.remove(engine, name, listener)


def serve(workspaces: int, sizes: dict[str, Any], pipe: Pipe) -> None:
    """The vendors, in a process of their own; tells how to reach them, ends when the pipe does."""

    async def main() -> None:
        options = Options(workspaces=workspaces, limits=False, **sizes)
        async with Sandbox(options, world=World(options, StandingClock(BORN))) as box:
            pipe.send((box.base, box.environment(), [dict(line) for line in box.connections()]))
            await asyncio.to_thread(pipe.poll, None)

    asyncio.run(main())


def settings(environment: dict[str, str], url: str) -> Settings:
    sources: dict[str, dict[str, Any]] = {}
    for name, value in environment.items():
        _, source, *path = name.lower().removeprefix("syncd_").split("__")
        if len(path) == 1:  # the apps by which people sign in are no matter here
            sources.setdefault(source, {})[path[0]] = value
    for name, mine in sources.items():
        mine["limits"] = dict.fromkeys(type(getattr(Settings().sources, name)).vendor_limits, "1000000/1s")
    return Settings(database={"url": url}, secret_keys=generate_key(), sources=sources)


class Bench:
    """The connections and the clock that both processes go by."""

    def __init__(self, parts: Parts, base: str) -> None:
        self._parts, self._base = parts, base
        self.at = BORN

    async def advance(self, by: timedelta) -> None:
        self.at += by
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self._base}/control/clock", json={"advance_s": by.total_seconds()}) as answer,
        ):
            answer.raise_for_status()

    async def cycle(self, name: str) -> tuple[float, ...]:
        """A cycle; answers what each run of it took: CPU ms, statements, transactions, calls."""
        with counted(self._parts.store.database) as counts:
            began = time.process_time()
            status = await self._parts.engine.cycle(name, trigger="cli")
            spent = time.process_time() - began
        many = status["successful_workspaces"]
        if not many or status["failed_workspaces"] or status["deferred_workspaces"]:
            raise SystemExit(f"{name}: {status}")
        return tuple(one / many for one in (spent * 1000, counts.statements, counts.transactions, status["calls"]))

    async def measure(
        self, ripe: tuple[timedelta, ...], profile: cProfile.Profile | None
    ) -> dict[str, list[tuple[float, ...]]]:
        for wait in (timedelta(0), *ripe):
            await self.advance(wait)
            for name in SOURCES:
                await self.cycle(name)
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in SOURCES}
        for _ in range(TURNS):
            await self.advance(TURN)
            for name, mine in found.items():
                if profile:
                    profile.enable()
                mine.append(await self.cycle(name))
                if profile:
                    profile.disable()
        return found


async def main(arguments: argparse.Namespace) -> None:
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    sizes = {} if arguments.day else SIZES
    vendors = context.Process(target=serve, args=(arguments.workspaces, sizes, there), daemon=True)
    vendors.start()
    base, environment, lines = await asyncio.to_thread(here.recv)
    profile = cProfile.Profile() if arguments.profile else None
    try:
        with tempfile.TemporaryDirectory(prefix="syncd-idle-run-") as folder:
            url = arguments.database or f"sqlite+aiosqlite:///{Path(folder) / 'syncd.db'}"
            bench: Bench
            async with open_parts(settings(environment, url), migrate=True, now=lambda: bench.at) as parts:
                bench = Bench(parts, base)
                added = [Line(**{key: part for key, part in one.items() if key != "is_active"}) for one in lines]
                await parts.store.connections.put(added, parts.vault.seal)
                found = await bench.measure(DAY if arguments.day else RIPE, profile)
    finally:
        here.send("end")
        vendors.join(5)
        vendors.kill()
    table(
        ("source", "CPU ms", "least", "most", "statements", "transactions", "calls"),
        (
            (name, f"{median(cpu):.2f}", f"{min(cpu):.2f}", f"{max(cpu):.2f}", *(f"{median(one):.1f}" for one in rest))
            for name, (cpu, *rest) in ((name, tuple(zip(*rows, strict=True))) for name, rows in found.items())
        ),
        title=f"An idle run{', a day in its window' if arguments.day else ''}, "
        f"{'PostgreSQL' if arguments.database else 'SQLite'}, {arguments.workspaces} workspaces",
    )
    if profile:
        for order in ("tottime", "cumtime"):
            pstats.Stats(profile, stream=sys.stderr).sort_stats(order).print_stats(60)


if __name__ == "__main__":
    logs.set_up("warning", "auto")
    parser = argparse.ArgumentParser(description="What an idle run costs.")
    parser.add_argument("--database", help="postgresql+asyncpg://… of an empty database; without it: SQLite")
    parser.add_argument("--workspaces", type=int, default=20)
    parser.add_argument("--day", action="store_true", help="with what a day brings in the windows")
    parser.add_argument("--profile", action="store_true")
    asyncio.run(main(parser.parse_args()))
    out.print()
