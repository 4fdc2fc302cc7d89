"""A syncd whose clock is moved from turn to turn, as a process of its own: what it holds is its own.

As a module it is that process: it reads settings as JSON from its first line, and from each further one the time of a
turn, which it lives; it answers what it holds then. `Life` is what a test drives.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Holds:
    """What the process holds between two turns."""

    memory_mb: float
    tasks: int
    files: int
    databases: int


class Life:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    async def turn(self, at: datetime) -> Holds:
        """Cycles of all sources, as of ``at``, to their end."""
        self._in.write(at.isoformat().encode() + b"\n")
        answer = await self._out.readline()
        assert answer, "it ended"
        return Holds(**orjson.loads(answer))


@asynccontextmanager
async def life(settings: Mapping[str, Any], born: datetime) -> AsyncIterator[Life]:
    """``born``: when its clock begins."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SYNCD_")}
    kept["MALLOC_ARENA_MAX"] = "2"  # as in deploy/syncd.service and the image
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.life", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env=kept, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(orjson.dumps({"settings": settings, "born": born}) + b"\n")
    try:
        yield Life(process)
    finally:
        process.stdin.close()
        await process.wait()


async def main() -> None:
    from functools import partial

    import syncd.daemon
    import syncd.engine
    import syncd.http
    from syncd import logs
    from syncd.limits import Buckets
    from syncd.process import keep_what_is_loaded
    from syncd.sandbox.world import StandingClock
    from syncd.settings import Settings
    from syncd.sources import SOURCES

    given = orjson.loads(sys.stdin.readline())
    clock = StandingClock(datetime.fromisoformat(given["born"]))
    syncd.daemon.Buckets = partial(Buckets, clock.monotonic)  # type: ignore[attr-defined, assignment]
    syncd.http.ATTEMPT_S = 0.5
    syncd.engine._PRUNE_EVERY_S = 0.0
    logs.set_up("critical", "json")
    async with syncd.daemon.open_parts(Settings(**given["settings"]), now=clock.now) as parts:
        pool: Any = parts.store.database.engine.pool
        keep_what_is_loaded()  # as `serve` does; nobody collects what is left between two turns
        while line := await asyncio.to_thread(sys.stdin.readline):
            clock.advance(datetime.fromisoformat(line.strip()) - clock.now())
            for name in SOURCES:
                parts.engine.start_cycle(name, clock.now())
            await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name().startswith("cycle ")))
            holds = Holds(
                memory_mb=int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB,
                tasks=len(asyncio.all_tasks()),
                files=len(list(Path("/proc/self/fd").iterdir())),
                databases=pool.checkedin() + pool.checkedout(),
            )
            print(orjson.dumps(asdict(holds)).decode(), flush=True)  # noqa: T201 - its answer


if __name__ == "__main__":
    asyncio.run(main())
