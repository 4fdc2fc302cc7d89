"""One connection that reads one source of a sandbox from its birth on, in compressed time, and what it holds then."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, select

from syncd import tables
from syncd.credentials import generate_key
from syncd.daemon import Parts, open_parts
from syncd.policy import RunTimedOut
from syncd.records import without
from syncd.sandbox.app import Sandbox
from syncd.sandbox.month import Month
from syncd.sandbox.world import Options, StandingClock, World
from syncd.settings import Settings
from syncd.source import Page, Since, Source
from syncd.sources import SOURCES
from syncd.store import Database, Line
from syncd.worker import Worker
from tests.queueing import KIND, queue_in

KINDS = ("people", "conversations", "messages", "meetings", "transcripts")
# What each vendor makes anew at each call, so that nobody can hold it as it is now.
VOLATILE: Mapping[str, frozenset[str]] = {
    "slack": frozenset({"block_id", "subscribed", "last_read", "root", "latest", "is_member", "num_members"}),
    "gong": frozenset(),
    "fathom": frozenset({"matched_speaker_display_name"}),
    "gmail": frozenset({"attachmentId", "historyId"}),
}
SMALL = Options(
    workspaces=1,
    days=1,
    channels=1,
    messages_per_day=2,
    calls_per_day=1,
    meetings_per_day=1,
    mails_per_day=2,
    limits=False,
)
MANY = int(os.environ.get("SYNCD_MONTHS", "0"))  # how many generated months; 0: the few of CI
BORN = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # the data depends on the time of day
REST = timedelta(days=2)  # after the last event: within this everything has arrived

Read = Callable[[Any, Since], AsyncIterator[Page]]


class Cuts:
    """Breaks runs off, as their time limit would, after a random number of pages.

    About as many on the average as the longest run had so far: so most runs are cut, and none is cut for ever.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._most, self._seen, self._left = 3, 0, 0
        self.on, self.made = True, 0

    def begin(self) -> None:
        self._most = max(self._most, self._seen)
        self._seen, self._left = 0, int(self._random.expovariate(1 / self._most))

    def source(self, source: Source) -> Source:
        streams = tuple(dataclasses.replace(one, read=self._wrapped(one.read)) for one in source.streams)
        return dataclasses.replace(source, streams=streams)

    def _wrapped(self, read: Read) -> Read:
        async def cut(api: Any, since: Since) -> AsyncIterator[Page]:
            async with aclosing(read(api, since)) as pages:  # type: ignore[type-var]
                async for page in pages:
                    if self.on and self._left == 0:
                        self.made += 1
                        raise RunTimedOut("cut by the test")
                    self._left, self._seen = self._left - 1, self._seen + 1
                    yield page

        return cut


class Reading:
    """``cycle`` is a turn of the schedule: it reads when the connection is due, and sweeps when that is due."""

    def __init__(self, box: Sandbox, parts: Parts, source: str, cuts: Cuts | None, channels: Collection[str]) -> None:
        self.box, self.parts, self.source, self.cuts, self.channels = box, parts, source, cuts, channels
        self.clock = box.world.clock
        self.workspace = next(iter(box.world.companies))
        self.last: dict[str, Any] = {}

    async def cycle(self) -> None:
        if self.cuts is not None:
            self.cuts.begin()
        status = await self.parts.engine.cycle(self.source, trigger="schedule", turn=self.clock.now())
        assert status["failures"] == [], status["failures"]
        self.last = status

    def rest(self) -> None:
        """From now on runs are whole."""
        if self.cuts is not None:
            self.cuts.on = False

    async def live_through(
        self, month: Month, until: timedelta, step: timedelta, least: timedelta = timedelta()
    ) -> None:
        """Go from event to event to ``until`` after birth, with a cycle each ``step`` at the most, ``least`` apart."""
        end, last = self.box.world.born + until, self.clock.now()
        while (now := self.clock.now()) < end:
            at = min(end, last + step, month.next_at or end)
            self.clock.advance(at - now)
            month.play(at)
            if at == end or at - last >= least:
                last = at
                await self.cycle()

    async def held(self) -> dict[str, dict[str, tuple[Any, bool]]]:
        """Kind → external id → raw, and whether it is live."""
        found: dict[str, dict[str, tuple[Any, bool]]] = {}
        async with self.parts.store.database.read() as session:
            for kind in KINDS:
                table = tables.metadata.tables[kind]
                query = select(table.c.external_id, table.c.raw, table.c.deleted_at.is_(None))
                found[kind] = {row[0]: (row[1], bool(row[2])) for row in await session.execute(query)}
        return found

    async def faults(self) -> list[str]:
        """What differs between the store and the sandbox's record, a line for each row."""
        record = self.box.vendors[self.source].holdings(self.workspace)  # type: ignore[attr-defined]
        if self.channels:
            record = {
                "people": record["people"],
                "conversations": {one: record["conversations"][one] for one in self.channels},
                "messages": {
                    one: raw for one, raw in record["messages"].items() if one.partition(":")[0] in self.channels
                },
            }
        held = await self.held()
        if self.source == "slack" and self.cuts is not None:
            # What began before the first window comes with the first sweeps, if these are not cut for days: no promise.
            first = f"{(self.box.world.born - timedelta(days=1)).timestamp():.6f}"
            record["messages"] = {
                one: raw
                for one, raw in record["messages"].items()
                if one in held["messages"] or raw.get("thread_ts", raw["ts"]) >= first
            }
        return list(compared(record, held, VOLATILE[self.source]))


def compared(
    record: Mapping[str, Mapping[str, Any]],
    held: Mapping[str, Mapping[str, tuple[Any, bool]]],
    volatile: frozenset[str],
) -> Iterator[str]:
    for kind in KINDS:
        wanted, found = record.get(kind, {}), held[kind]
        for one, raw in sorted(wanted.items()):
            if one not in found:
                yield f"missing {kind} {one}: {short(raw)}"
                continue
            stored, live = found[one]
            if not live:
                yield f"wrongly deleted {kind} {one}: {short(raw)}"
            elif (old := comparable(stored, volatile)) != (new := comparable(raw, volatile)):
                yield f"stale {kind} {one}: {'; '.join(parting(old, new))}"
        for one in sorted(found):
            if found[one][1] and one not in wanted:
                yield f"wrong {kind} {one}: {short(found[one][0])}"


def comparable(raw: Any, volatile: frozenset[str]) -> Any:
    """Without what differs from call to call; Fathom's action items have no ids and no promised order: as a set."""
    kept = without(raw, volatile)
    if isinstance(kept, dict) and isinstance(kept.get("action_items"), list):
        kept["action_items"] = sorted(kept["action_items"], key=lambda item: json.dumps(item, sort_keys=True))
    return kept


def parting(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Where two JSON values part."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if key not in old or key not in new:
                yield f"{path}.{key} only {'at the vendor' if key in new else 'stored'}: {short((new | old)[key])}"
            else:
                yield from parting(old[key], new[key], f"{path}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from parting(one, other, f"{path}[{at}]")
    elif old != new:
        yield f"{path} stored {short(old)} but is {short(new)}"


def short(value: Any) -> str:
    told = repr(value)
    return told if len(told) < 200 else f"{told[:200]}…"


@asynccontextmanager
async def reading(
    source: str,
    database_url: str,
    options: Options = SMALL,
    *,
    cuts: Cuts | None = None,
    settings: Mapping[str, Any] | None = None,
    kind: str = KIND,
) -> AsyncIterator[Reading]:
    """A sandbox that was born just now, and one connection to it that has had its first cycle.

    ``settings``: the connection's; with ``channels`` only these are compared. ``kind``: the engine's.
    """
    async with Sandbox(options, world=World(options, StandingClock(BORN))) as box:
        prefix = f"SYNCD_SOURCES__{source.upper()}__"
        mine: dict[str, Any] = {
            key.removeprefix(prefix).lower(): value
            for key, value in box.environment().items()
            if key.startswith(prefix) and "__OAUTH__" not in key
        }
        limits = type(getattr(Settings().sources, source)).vendor_limits
        configured = Settings(
            database={"url": database_url},
            secret_keys=generate_key(),
            engine={"kind": kind},
            sources={
                source: mine | {"patience": "0s", "limits": dict.fromkeys(limits, "1000000/1s"), "concurrency": 2}
            },
        )
        async with opened(configured, source, box.world.clock.now) as (parts, reader):
            if cuts is not None:
                plan = reader.engine.plans[source]
                cut = dataclasses.replace(plan, source=cuts.source(SOURCES[source]))
                reader.engine.plans = {**reader.engine.plans, source: cut}
            line = next(one for one in box.connections() if one["source"] == source)
            chosen = {key: line[key] for key in ("workspace_id", "account", "credentials")}
            line = Line(source=source, settings=settings or {}, **chosen)
            await parts.store.connections.put([line], parts.vault.seal)
            one = Reading(box, parts, source, cuts, (settings or {}).get("channels", ()))
            if cuts is not None:
                # their record is of a first run that began to read: one that is cut before begins later
                cuts.on = source not in {"gmail", "slack"}
            await one.cycle()
            if cuts is not None:
                cuts.on = True
            yield one


@asynccontextmanager
async def opened(settings: Settings, source: str, now: Callable[[], datetime]) -> AsyncIterator[tuple[Parts, Parts]]:
    """Who begins the cycles, and who reads: itself, or a worker by way of the queue."""
    if settings.engine.kind == "local":
        async with open_parts(settings, now=now) as parts:
            yield parts, parts
        return
    async with (
        queue_in(settings.database.url.get_secret_value()),
        open_parts(settings, queued=True, now=now) as daemon,
        open_parts(settings, now=now) as reader,
    ):
        assert reader.store.jobs is not None
        worker = Worker(reader.engine, reader.store, reader.store.jobs, sources=[source])
        worker.start()
        try:
            yield daemon, reader
        finally:
            await worker.drain(5.0)


async def emptied(database_url: str) -> None:
    """The database as if it had just been made: one serves all months of a test."""
    database = Database(database_url)
    async with database.write() as session:
        for table in reversed(tables.metadata.sorted_tables):
            await session.execute(delete(table))
    await database.close()
