"""What the process counts, for ``GET /metrics``; what the database holds is `gauges`.

Labels name sources, calls and limits, never connections: their number is unbounded.
"""

from __future__ import annotations

import asyncio
import platform
import time
from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    Summary,
    generate_latest,
)

from syncd import __version__
from syncd.policy import DEFERRED, FAILED, INTERRUPTED, SUCCEEDED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from prometheus_client.registry import Collector

    from syncd.store import Counts

_CALL_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)  # an attempt is cut after two minutes
_LAG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_LAG_EVERY_S = 0.5


class Metrics:
    """One registry per process (or per test). ``sources``: their counters begin at 0 instead of being absent."""

    def __init__(self, sources: Iterable[str] = ()) -> None:
        self.registry = registry = CollectorRegistry()
        of_source = ["source"]
        self.cycles = Counter("syncd_cycles", "Cycles ended.", [*of_source, "status"], registry=registry)
        self.runs = Counter("syncd_runs", "Runs ended, by outcome.", [*of_source, "status"], registry=registry)
        self.errors = Counter(
            "syncd_run_errors", "Runs that ended with an error, by its kind.", [*of_source, "kind"], registry=registry
        )
        self.running = Gauge("syncd_runs_running", "Runs under way in this process.", of_source, registry=registry)
        self.records = Counter(
            "syncd_records", "Rows written, by table and change.", [*of_source, "kind", "change"], registry=registry
        )
        self.calls = Counter(
            "syncd_calls",
            "Calls to vendors; status is ok, or the kind of what came instead (transient, rate_limited, auth, …).",
            [*of_source, "method", "status"],
            registry=registry,
        )
        self.call_seconds = Histogram(
            "syncd_call_seconds", "Time from a call to its answer.", of_source, registry=registry, buckets=_CALL_S
        )
        self.waits = Summary(
            "syncd_wait_seconds",
            "Waits before a call; reason is pacing (our own count of the limit), rate_limited (the vendor said later) "
            "or transient (before the retry of a passing fault).",
            [*of_source, "reason", "limit"],
            registry=registry,
        )
        self.lag = Histogram(
            "syncd_event_loop_lag_seconds",
            "How much later than asked for the event loop woke a task.",
            registry=registry,
            buckets=_LAG_S,
        )
        words = "Always 1; its labels tell the version."
        build = Gauge("syncd_build_info", words, ["version", "python"], registry=registry)
        build.labels(__version__, platform.python_version()).set(1)
        ProcessCollector(registry=registry)
        self._look: Callable[[], Awaitable[None]] = _nowhere
        self._of_call = cache(self._labelled)  # to look labels up takes longer than to count
        for name in sources:
            for status in ("success", "skipped", INTERRUPTED):
                self.cycles.labels(name, status)
            for status in (SUCCEEDED, DEFERRED, INTERRUPTED, FAILED):
                self.runs.labels(name, status)
            self.running.labels(name)
            self.call_seconds.labels(name)

    def ended(self, source: str, status: str, kind: str | None) -> None:
        """A run did. ``kind``: of its error."""
        self.runs.labels(source, status).inc()
        if kind is not None:
            self.errors.labels(source, kind).inc()

    def called(self, source: str, method: str, status: str, seconds: float) -> None:
        calls, spent = self._of_call(source, method, status)
        calls.inc()
        spent.observe(seconds)

    def _labelled(self, source: str, method: str, status: str) -> tuple[Counter, Histogram]:
        return self.calls.labels(source, method, status), self.call_seconds.labels(source)

    def stored(self, source: str, counts: Counts) -> None:
        """Rows that a page wrote."""
        for (kind, change), rows in counts.kinds.items():
            self.records.labels(source, kind, change).inc(rows)

    def waited(self, source: str, reason: str, limit: str, seconds: float) -> None:
        self.waits.labels(source, reason, limit).observe(seconds)

    def add(self, collector: Collector, look: Callable[[], Awaitable[None]]) -> None:
        """Tell also what ``collector`` holds; ``look`` is awaited before each scrape, for it to see that."""
        self.registry.register(collector)
        self._look = look

    async def scrape(self) -> bytes:
        """All of it, in the exposition format, within 3 s whatever the database does."""
        await self._look()
        return await asyncio.to_thread(generate_latest, self.registry)


async def _nowhere() -> None:
    """Nothing else is to be seen."""


async def watch_lag(
    metrics: Metrics,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Measure the event loop's lag twice a second, for ever."""
    while True:
        before = monotonic()
        await sleep(_LAG_EVERY_S)
        metrics.lag.observe(max(0.0, monotonic() - before - _LAG_EVERY_S))
