"""syncd as a measured process: ``python -m benchmarks.syncd_run SPEC``, a JSON object of `Spec`.

Each step is a cycle of every named source, all at once; its cost is counted from inside, without the start. With
``http`` the process serves its pages as well, prints their address first and tells how late the loop was.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import pstats
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from benchmarks.measure import cpu_s, peak_mb
from benchmarks.profiling import kind, shares
from syncd import logs
from syncd.daemon import make_scheduler, open_parts, raise_open_files, utc_now
from syncd.process import keep_what_is_loaded
from syncd.settings import Settings
from syncd.store import Line
from syncd.tasks import all_of
from syncd.web.server import Web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from syncd.daemon import Parts

FREE = "1000000/1s"
QUARTERLY, TURN_S = "*/15 * * * *", 900.0
LAG_S = 0.005


@dataclass(frozen=True, slots=True)
class Spec:
    """``lines``: connections to add first. ``steps``: each a list of sources. ``ahead_s``: how far its clock is.

    ``turns``: the cycles are of the schedule, a source's next one a quarter of an hour after its last; else they are
    asked for by hand, which takes what is not due as well. ``profile``: tell where the steps' time went and what the
    database was asked.
    """

    url: str
    key: str
    environment: dict[str, str]
    steps: list[list[str]]
    lines: list[dict[str, Any]] = field(default_factory=list)
    lookback: str = "24h"
    ahead_s: float = 0.0
    turns: bool = False
    http: bool = False
    profile: bool = False


def configured(spec: Spec) -> Settings:
    """Settings that point at the vendors, without limits, and else by default."""
    sources: dict[str, dict[str, Any]] = {}
    for name, value in spec.environment.items():
        _, source, *path = name.lower().removeprefix("syncd_").split("__")
        if len(path) == 1:  # the apps by which people sign in are no matter here
            sources.setdefault(source, {})[path[0]] = value
    for name, mine in sources.items():
        limits = dict.fromkeys(type(getattr(Settings().sources, name)).vendor_limits, FREE)
        mine |= {"limits": limits, "lookback": spec.lookback, "cron": QUARTERLY, "run_timeout": "2h"}
        if name in {"gong", "fathom"}:
            mine["max_new_per_run"] = 100_000
    return Settings(database={"url": spec.url}, secret_keys=spec.key, sources=sources, http={"port": 0})


class Lag:
    """How late the loop comes back from a sleep of 5 ms, and how much of that this process spent computing.

    The rest is the machine's, which had other things to do: beside others the second is what tells of syncd.
    """

    def __init__(self) -> None:
        self._late_ms = {"lag": Counter[int](), "busy": Counter[int]()}  # lists would grow with the time it takes

    async def watch(self) -> None:
        while True:
            began, used_s = time.monotonic(), time.process_time()
            await asyncio.sleep(LAG_S)
            late_s = max(time.monotonic() - began - LAG_S, 0.0)
            self._late_ms["lag"][round(late_s * 1000)] += 1
            self._late_ms["busy"][round(min(late_s, time.process_time() - used_s) * 1000)] += 1

    def told(self) -> dict[str, float]:
        """In ms, of all since the last time it was asked."""
        told = dict[str, float]()
        for name, late in self._late_ms.items():
            most = sorted(late.elements()) or [0]
            told |= {f"{name}_p99_ms": most[int(len(most) * 0.99)], f"{name}_most_ms": most[-1]}
            late.clear()
        return told


@asynccontextmanager
async def served(parts: Parts, lag: Lag, *, http: bool) -> AsyncIterator[None]:
    if not http:
        yield
        return
    scheduler = make_scheduler(parts.settings, parts.engine, schedules=False)  # cycles are started here
    web = Web(parts, scheduler)
    print(await web.start(), flush=True)
    scheduler.start()
    web.ready = True
    watch = asyncio.create_task(lag.watch())
    try:
        yield
    finally:
        watch.cancel()
        scheduler.shutdown(wait=False)
        await web.stop()


async def step(parts: Parts, names: list[str], at: datetime | None) -> dict[str, Any]:
    """A cycle of each, for the turn before ``at``, None: by hand; what it cost and what it did."""
    used_s, began = cpu_s(), time.monotonic()
    turns = [parts.engine.plans[name].last_turn(at) if at else None for name in names]
    trigger = "schedule" if at else "cli"
    done = await all_of(
        [parts.engine.cycle(name, trigger=trigger, turn=turn) for name, turn in zip(names, turns, strict=True)]
    )
    if failures := [one for status in done for one in status["failures"]]:
        raise SystemExit(f"{len(failures)} failed: {failures[0]}")
    told = {key: sum(status[key] for status in done) for key in ("added", "changed", "deleted", "calls")}
    told["runs"] = sum(status[f"{way}_workspaces"] for status in done for way in ("successful", "deferred"))
    told["records"] = sum(value for status in done for key, value in status.items() if key.startswith("total_"))
    return told | {"cpu_s": cpu_s() - used_s, "wall_s": time.monotonic() - began, "peak_mb": peak_mb()}


async def main(spec: Spec) -> dict[str, Any]:
    ahead_s = spec.ahead_s

    def now() -> datetime:
        return utc_now() + timedelta(seconds=ahead_s)

    lag, turns = Lag(), Counter[str]()
    async with open_parts(configured(spec), migrate=True, now=now) as parts:
        lines = [Line(**{key: part for key, part in one.items() if key != "is_active"}) for one in spec.lines]
        if lines:
            await parts.store.connections.put(lines, parts.vault.seal)
        started_mb, steps = peak_mb(), list[dict[str, Any]]()
        more = dict[str, Any]()
        async with served(parts, lag, http=spec.http):
            keep_what_is_loaded()  # as `syncd serve` does
            with profiled(parts, more) if spec.profile else nullcontext():
                for names in spec.steps:
                    ahead_s = spec.ahead_s + TURN_S * turns[names[0]] * spec.turns
                    turns.update(names)
                    lag.told()
                    done = await step(parts, names, now() if spec.turns else None)
                    steps.append(done | (lag.told() if spec.http else {}))
    return {"started_mb": started_mb, "steps": steps, **more}


@contextmanager
def profiled(parts: Parts, told: dict[str, Any]) -> Iterator[None]:
    """Adds to ``told`` the ``shares`` of CPU time and the ``statements`` by kind."""
    statements = Counter[str]()

    def asked(db: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements[kind(statement)] += 1

    engine = parts.store.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", asked)
    profile = cProfile.Profile(time.thread_time)
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        event.remove(engine, "before_cursor_execute", asked)
        told |= {"shares": shares(pstats.Stats(profile)), "statements": dict(statements.most_common())}


if __name__ == "__main__":
    logs.set_up("error", "auto")
    raise_open_files()
    given = sys.stdin.read() if sys.argv[1] == "-" else sys.argv[1]
    print(json.dumps(asyncio.run(main(Spec(**json.loads(given))))))
