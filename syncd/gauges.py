"""What the database and the process hold at the moment of a scrape, as Prometheus sees it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from syncd.report import missed, queue
from syncd.store.status import FRESHNESS, STATES, TROUBLES, Sum

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from prometheus_client import Metric

    from syncd.engine import Engine
    from syncd.settings import Settings
    from syncd.store import Store

log = structlog.get_logger(__name__)

_PATIENCE_S = 2.0  # of a scrape with the database
_FRESH_S = 10.0  # what was read serves so long, however many ask
_MISSED_TURNS = {"on_time": 0, "late": 1, "overdue": 2}


class Gauges(Collector):
    """Sums over all connections, of whatever daemon; and of this process its pool, slots and leases.

    `look` reads the database, `collect` tells what it found. While the database is away there is nothing of it but
    ``syncd_database_up`` 0: an old number would be taken for a new one.
    """

    def __init__(self, store: Store, engine: Engine, settings: Settings) -> None:
        self._store, self._engine, self._settings = store, engine, settings
        self._found: list[Metric] | None = None
        self._looked_s = -_FRESH_S
        self._looking: asyncio.Task[list[Metric]] | None = None

    async def look(self) -> None:
        """Read the database, unless that was done a moment ago; raises nothing, and takes no longer than 2 s."""
        if time.monotonic() - self._looked_s < _FRESH_S:
            return
        if self._looking is None or self._looking.done():  # one that came late told of then
            # Waited for apart: a cancelled question to a frozen server takes its own time to end.
            self._looking = asyncio.create_task(self._read())
            self._looking.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        looking = self._looking
        await asyncio.wait([looking], timeout=_PATIENCE_S)
        if not looking.done():
            self._found = None
            return
        self._looking, self._looked_s = None, time.monotonic()
        error = None if looking.cancelled() else looking.exception()
        self._found = looking.result() if error is None and not looking.cancelled() else None
        if error is not None:
            log.debug("gauges.not_read", error=type(error).__name__)

    async def close(self) -> None:
        """End a question that is still under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking], timeout=1.0)

    def collect(self) -> Iterator[Metric]:
        yield _gauge("syncd_database_up", "Whether the database answered.", [], [((), self._found is not None)])
        yield from self._found or ()
        yield from self._of_process()

    def _of_process(self) -> Iterator[Metric]:
        size, in_use = self._store.database.pool
        yield _gauge("syncd_database_pool_size", "Database connections at most.", [], [((), size)])
        yield _gauge("syncd_database_pool_in_use", "Database connections in use.", [], [((), in_use)])
        slots = self._engine.slots.items()
        held = (((name,), float(one.held)) for name, one in slots)
        yield _gauge("syncd_slots_in_use", "Runs that read; those that only wait have lent theirs.", ["source"], held)
        size_of = (((name,), float(one.size)) for name, one in slots)
        yield _gauge("syncd_slots", "Runs that may read at once.", ["source"], size_of)
        away = (((name,), float(one.unreachable)) for name, one in slots)
        yield _gauge("syncd_source_unreachable", "Whether this process cannot reach the vendor.", ["source"], away)

    async def _read(self) -> list[Metric]:
        store, plans = self._store, self._engine.plans
        mine = missed(store, plans, self._settings)
        found = list(_of_sums(await store.status.sums(mine), list(plans), store.status.now()))
        waiting = (((source, limit), count) for source, limit, count in await store.status.waiting())
        words = "Connections that wait for a limit of their vendor."
        found.append(_gauge("syncd_connections_waiting", words, ["source", "limit"], waiting))
        found += await self._backlogs()
        leases = await store.health.leases()
        words = "Connections that some daemon reads now."
        found.append(_gauge("syncd_leases", words, ["source"], (((name,), leases.get(name, 0)) for name in plans)))
        found += await self._turns(mine)
        found += await self._queue()
        if self._settings.metrics.per_connection:
            found += _of_connections(await store.status.connections(mine))
        return found

    async def _backlogs(self) -> Iterable[Metric]:
        backlogs, now = await self._store.health.backlogs(), self._store.status.now()
        sizes = (((name,), backlogs[name].count if name in backlogs else 0) for name in self._engine.plans)
        ages = (((name,), (now - one.oldest).total_seconds()) for name, one in backlogs.items())
        words = "Age of what waits longest in the backlog."
        return (
            _gauge("syncd_backlog", "Things known but not ready or not readable yet.", ["source"], sizes),
            _gauge("syncd_backlog_oldest_age_seconds", words, ["source"], ages),
        )

    async def _queue(self) -> Iterable[Metric]:
        """Nothing where this process runs all itself."""
        told = await queue(self._store)
        if told is None:
            return ()
        jobs = [(("queued",), told["queued"]), (("picked",), told["picked"])]
        words = "How long the first job waits for a worker."
        return (
            _gauge("syncd_queue_workers", "Workers that live.", [], [((), told["workers"])]),
            _gauge("syncd_queue_jobs", "Connections that wait for a worker, or that one has.", ["state"], jobs),
            _gauge("syncd_queue_oldest_age_seconds", words, [], [((), told["oldest_waiting_s"] or 0)]),
            _gauge(
                "syncd_queue_repeated_deliveries",
                "How often in the last day a job was given to a worker once more.",
                [],
                [((), told["repeated_deliveries"])],
            ),
        )

    async def _turns(self, on: Mapping[str, Any]) -> Iterable[Metric]:
        """The schedule. A turn that no daemon took shows as a last one that stays behind."""
        now, taken = self._store.status.now(), await self._store.health.last_turns()
        names, plans = ["source"], self._engine.plans
        enabled = (((name,), name in on) for name in plans)
        last = (((name,), at.timestamp()) for name, at in taken.items() if name in on)
        due = (((name,), plans[name].last_turn(now).timestamp()) for name in on)
        coming = (((name,), plans[name].next_turn(now).timestamp()) for name in on)
        return (
            _gauge("syncd_source_enabled", "Whether the source has a schedule.", names, enabled),
            _gauge("syncd_turn_taken_timestamp_seconds", "The last turn that some daemon took.", names, last),
            _gauge("syncd_turn_due_timestamp_seconds", "The last turn of the schedule.", names, due),
            _gauge("syncd_turn_next_timestamp_seconds", "The next turn of the schedule.", names, coming),
        )


def _of_sums(sums: Iterable[Sum], sources: list[str], now: datetime) -> Iterator[Metric]:
    """Each state, freshness and trouble, those that nobody is in as 0: a row that comes and goes alerts badly."""
    counts: Counter[tuple[str, str, str]] = Counter()
    oldest: dict[str, datetime] = {}
    for one in sums:
        for what, value in (("state", one.state), ("freshness", one.freshness), ("trouble", one.trouble)):
            counts[one.source, what, str(value)] += one.count
        if one.oldest is not None and one.freshness is not None:
            oldest[one.source] = min(oldest.get(one.source, one.oldest), one.oldest)
    for name, what, values, words in (
        ("syncd_connections", "state", STATES, "Connections by what they do or wait for."),
        ("syncd_connections_freshness", "freshness", FRESHNESS, "Connections that are read, by turns missed."),
        ("syncd_connections_trouble", "trouble", TROUBLES, "Connections with trouble, by the first that holds."),
    ):
        rows = (((source, value), counts[source, what, value]) for source in sources for value in values)
        yield _gauge(name, words, ["source", what], rows)
    ages = (((source,), max(0.0, (now - at).total_seconds())) for source, at in oldest.items())
    words = "Time since the connection that was read longest ago was last read."
    yield _gauge("syncd_oldest_read_age_seconds", words, ["source"], ages)


def _of_connections(rows: Iterable[Mapping[str, Any]]) -> Iterable[Metric]:
    names = ["source", "workspace", "connection"]
    read = [(row, (row["source"], row["workspace_id"], str(row["id"]))) for row in rows if row["freshness"]]
    succeeded = ((who, row["last_success_at"].timestamp()) for row, who in read if row["last_success_at"])
    turns = ((who, _MISSED_TURNS[row["freshness"]]) for row, who in read)
    troubled = (((*who, row["trouble"]), 1) for row, who in read if row["trouble"])
    return (
        _gauge("syncd_connection_last_success_timestamp_seconds", "Its last success.", names, succeeded),
        _gauge("syncd_connection_missed_turns", "0 on time, 1 late, 2 overdue.", names, turns),
        _gauge("syncd_connection_trouble", "1 while it has that trouble.", [*names, "trouble"], troubled),
    )


def _gauge(name: str, words: str, labels: list[str], rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=labels)
    for values, number in rows:
        family.add_metric(values, float(number))
    return family
