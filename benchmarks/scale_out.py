"""Workers beside one another: ``python -m benchmarks.scale_out [--connections N] [--slow S] [--workers 1,2,4,8]``.

Every answer of the vendors takes ``--slow`` seconds, so that waiting is the limit and not this machine's cores. A
daemon that only schedules puts one cycle of Fathom into the queue; timed is the cycle, counted is the CPU of all who
took part. Before that, the same cycle by one process alone, as `engine.kind` ``local`` has it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from benchmarks.measure import _TICKS_S, ROOT, _ticks, cpu_s, postgres
from benchmarks.vendors import vendors
from syncd import logs
from syncd.credentials import generate_key
from syncd.daemon import open_parts, utc_now
from syncd.settings import Settings
from syncd.store import Line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from benchmarks.vendors import Running
    from syncd.daemon import Parts

SOURCE = "fathom"
FREE = {"calls": "1000000/1s", "heavy": "1000000/1s", "token": "1000000/1s"}


def environment(url: str, key: str, vendor: Running, kind: str, slots: int) -> dict[str, str]:
    """For us and for the workers, by which both mean the same."""
    lines = (line.removeprefix("export ") for line in vendor.ask("environment").decode().splitlines() if "=" in line)
    found = dict(line.split("=", 1) for line in lines)
    own = {
        "SYNCD_DATABASE__URL": url,
        "SYNCD_SECRET_KEYS": key,
        "SYNCD_ENGINE__KIND": kind,
        "SYNCD_HTTP__PORT": "0",
        "SYNCD_LOG__LEVEL": "warning",
        "SYNCD_SOURCES__FATHOM__CONCURRENCY": str(slots),
        "SYNCD_SOURCES__FATHOM__LIMITS": json.dumps(FREE),
        "SYNCD_SOURCES__FATHOM__CRON": "0 0 1 1 *",
    }
    return {name: value.strip("'\"") for name, value in found.items()} | own


def configured(env: dict[str, str]) -> Settings:
    """Settings from those variables alone."""
    for name in [one for one in os.environ if one.startswith("SYNCD_")]:
        del os.environ[name]
    os.environ.update(env)
    return Settings()


@asynccontextmanager
async def working(env: dict[str, str], parts: Parts, many: int) -> AsyncIterator[list[int]]:
    """So many worker processes, from when all of them are seen."""
    command = [sys.executable, "-m", "syncd", "worker"]
    how: dict[str, Any] = {"env": {**os.environ, **env}, "cwd": ROOT, "stdout": subprocess.DEVNULL}
    started = [subprocess.Popen(command, **how) for _ in range(many)]  # noqa: ASYNC220
    try:
        async with asyncio.timeout(120):
            while (depth := await parts.store.jobs.depth()) is None or depth.workers < many:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        yield [one.pid for one in started]
    finally:
        for one in started:
            one.send_signal(signal.SIGTERM)
        for one in started:
            with suppress(subprocess.TimeoutExpired):
                one.wait(timeout=60)


async def cycle(parts: Parts, pids: Sequence[int]) -> dict[str, float]:
    """One of all connections; its time, and the CPU of this process and those."""
    async with parts.store.database.write() as session:
        await session.execute(text("UPDATE connections SET next_sync_at = now() - interval '1 min'"))
    began, ours = time.monotonic(), cpu_s()
    theirs = sum(map(_ticks, pids))
    status = await parts.engine.cycle(SOURCE, trigger="schedule", turn=utc_now())
    wall_s, workers_s = time.monotonic() - began, (sum(map(_ticks, pids)) - theirs) / _TICKS_S
    if status["failed_workspaces"] or not status["successful_workspaces"]:
        raise SystemExit(f"not well: {status}")
    jobs = status["successful_workspaces"]
    return {
        "jobs": jobs,
        "wall_s": wall_s,
        "daemon_ms": (cpu_s() - ours) / jobs * 1e3,
        "workers_ms": workers_s / jobs * 1e3,
    }


async def measured(
    env: dict[str, str], vendor: Running, many: int, rounds: int, slow_s: float
) -> list[dict[str, float]]:
    """Some cycles by so many workers; 0: by this process alone, after one, not counted, that reads all there is."""
    settings = configured(env)
    async with open_parts(settings, migrate=True, queued=True) as parts:
        lines = [Line(**{key: part for key, part in one.items() if key != "is_active"}) for one in vendor.lines(SOURCE)]
        if not await parts.store.connections.count_active(SOURCE):
            await parts.store.connections.put(lines, parts.vault.seal)
        if not many:
            await cycle(parts, ())
            vendor.ask("faults", {"kind": "slow", "vendor": SOURCE, "seconds": slow_s})
            return [await cycle(parts, ()) for _ in range(rounds)]
        async with working(env, parts, many) as pids:
            return [await cycle(parts, pids) for _ in range(rounds)]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--connections", type=int, default=160)
    asked.add_argument("--slow", type=float, default=1.0)
    asked.add_argument("--slots", type=int, default=5, help="of each process")
    asked.add_argument("--workers", default="1,2,4,8")
    asked.add_argument("--rounds", type=int, default=3)
    given = asked.parse_args()
    logs.set_up("warning", "json")
    key, first = generate_key(), None
    with postgres() as server, vendors(workspaces=given.connections, days=1, meetings_per_day=1) as vendor:
        url = server.url()
        print(f"{given.connections} connections, {given.slots} at once in each process, {given.slow:g} s an answer")
        print("kind, workers | cycle, s | jobs/s | of one worker's | CPU a job: daemon, workers, PostgreSQL, ms")
        for many in (0, *map(int, given.workers.split(","))):
            env = environment(url, key, vendor, "pgqueuer" if many else "local", given.slots)
            server_s = server.cpu_s()
            told = asyncio.run(measured(env, vendor, many, given.rounds, given.slow))
            done = sum(one["jobs"] for one in told) + (0 if many else told[0]["jobs"])
            server_ms = (server.cpu_s() - server_s) / done * 1e3
            middle = {name: statistics.median(one[name] for one in told) for name in told[0]}
            rate = middle["jobs"] / middle["wall_s"]
            first = rate if many == 1 else first
            name = f"pgqueuer, {many}" if many else "local, alone"
            share = f"{rate / first:.2f}" if many and first else "-"
            cpu = f"{middle['daemon_ms']:.1f}, {middle['workers_ms']:.1f}, {server_ms:.1f}"
            print(f"{name} | {middle['wall_s']:.1f} | {rate:.1f} | {share} | {cpu}", flush=True)


if __name__ == "__main__":
    main()
