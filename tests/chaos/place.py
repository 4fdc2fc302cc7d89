"""A sandbox and the connections to it in a database: what processes read, and how it is compared with the truth."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

import orjson
from sqlalchemy import select, text, update

from syncd import tables
from syncd.credentials import Vault, generate_key
from syncd.sandbox.app import Sandbox
from syncd.sandbox.month import Event, Month
from syncd.sandbox.world import Clock, Options, StandingClock, World
from syncd.sources import SOURCES
from syncd.store import Database, Line, Store
from tests.chaos.forks import WAIT_S, Fork, Forks
from tests.chaos.seeds import REPLAY
from tests.months.moves import DEEDS, Move, events
from tests.months.reading import BORN, KINDS, VOLATILE, compared
from tests.queueing import SCHEMA, queue_in

KEY = generate_key()
TINY = {"days": 1, "channels": 1, "messages_per_day": 2, "calls_per_day": 1, "meetings_per_day": 1, "mails_per_day": 2}
GONG_SECOND = "30/1s"  # instead of 3: most of the time would go into waiting for it


@dataclass(slots=True)
class Place:
    """``settings``: for a process. ``months``: what will happen at the vendors, a month for each workspace.

    ``queued``: each turn goes by way of a queue.
    """

    box: Sandbox
    database: Database
    settings: dict[str, Any]
    months: list[Month] = field(default_factory=list)
    turns: int = 0
    queued: bool = False

    @property
    def clock(self) -> Clock:
        return self.box.world.clock

    def events(self, workspace: str, events: Iterable[Event]) -> None:
        self.months.append(Month(self.box, workspace, events))

    def pass_time(self, by: timedelta) -> None:
        """The vendors' clock goes on, and what is due by then happens."""
        self.clock.advance(by)
        for month in self.months:
            month.play(self.clock.now())

    async def turn(self, forks: Forks, **limits: Any) -> Fork:
        """A process that runs a turn of the schedule now."""
        self.turns += 1
        return await forks.cycle(self.settings, at=self.clock.now(), turn=self.clock.now(), **limits)

    async def begin(self, forks: Forks, **limits: Any) -> Turn:
        """A turn of the schedule now, by all who have a part in it."""
        await self._end_rights()
        worker = await forks.worker(self.settings, at=self.clock.now(), **limits) if self.queued else None
        if worker is not None:
            await until(lambda: "http://" in worker.said())  # it hears signals, and takes jobs
        return Turn(self, await self.turn(forks, **limits), worker)

    async def _end_rights(self) -> None:
        """Who was killed while it renewed a token is long dead by now: PostgreSQL counts its right to it by a clock that
        does not go on with ours.
        """
        ended = update(tables.connections).values(renewing=None, renewing_until=None)
        async with self.database.write() as session:
            await session.execute(ended)

    async def whole_turn(self, forks: Forks) -> None:
        """A turn that nothing disturbs: all must be well."""
        turn = await self.begin(forks)
        code = await turn.wait()
        assert code == 0, f"{code}: {turn.said()[-3000:]}"

    async def waiting(self) -> int:
        """How many jobs are in the queue, those that a dead worker had among them."""
        return int(await self.one(f"SELECT COUNT(*) FROM {SCHEMA}.pgqueuer")) if self.queued else 0

    async def reconnect(self) -> int:
        """What a person does for connections that need it; answers how many there were.

        They need it when a vendor refused them, and when their refresh token is lost: it is good for one use, so who is
        killed between the vendor's answer and storing it has lost it.
        """
        waiting = await self.rows("SELECT source, workspace_id, last_error FROM connections WHERE status <> 'ok'")
        chosen = [line for line in self.lines() if (line.source, line.workspace_id) in {one[:2] for one in waiting}]
        await Store(self.database, self.clock.now).connections.put(chosen, Vault([KEY]).seal)
        return len(chosen)

    def lines(self) -> list[Line]:
        """Every connection with the credentials that hold now."""
        given = self.box.connections()
        return [Line(**{key: part for key, part in line.items() if key != "is_active"}) for line in given]

    async def snapshot(self) -> dict[str, list[tuple[Any, ...]]]:
        """All that is stored, except what a process says of its own cycle and budgets."""
        kept = [table for table in tables.metadata.sorted_tables if table.name not in {"cycles", "budgets"}]
        async with self.database.read() as session:
            return {
                table.name: [tuple(row) for row in await session.execute(select(table).order_by(*table.primary_key))]
                for table in kept
            }

    async def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        async with self.database.read() as session:
            return [tuple(row) for row in await session.execute(text(query), values)]

    async def one(self, query: str, **values: Any) -> Any:
        return (await self.rows(query, **values))[0][0]

    async def held(self) -> dict[tuple[str, str], dict[str, dict[str, tuple[Any, bool]]]]:
        """(source, workspace) → kind → external id → raw, and whether it is live."""
        found: dict[tuple[str, str], dict[str, dict[str, tuple[Any, bool]]]] = {}
        of = tables.connections
        async with self.database.read() as session:
            for kind in KINDS:
                table = tables.metadata.tables[kind]
                query = select(
                    of.c.source, of.c.workspace_id, table.c.external_id, table.c.raw, table.c.deleted_at.is_(None)
                ).join_from(table, of, of.c.id == table.c.connection_id)
                for source, workspace, external_id, raw, live in await session.execute(query):
                    place = found.setdefault((source, workspace), {one: {} for one in KINDS})
                    place[kind][external_id] = (raw, bool(live))
        return found

    async def differences(self, sources: Iterable[str] = tuple(SOURCES)) -> list[str]:
        """What is missing, stale, wrongly deleted or too much in the database, a line for each row."""
        held, found = await self.held(), []
        for source in sources:
            for workspace in self.box.world.companies:
                record = self.box.vendors[source].holdings(workspace)
                mine = held.get((source, workspace), {one: {} for one in KINDS})
                found += [f"{source} of {workspace}: {line}" for line in compared(record, mine, VOLATILE[source])]
        return found

    def breaches(self) -> list[str]:
        """The calls that a limit forbade, by the sandbox's ledger."""
        return [str(breach) for breach in self.box.world.breaches]


@dataclass(slots=True)
class Turn:
    """A turn under way: the daemon's process and, where it goes by way of a queue, that of a worker."""

    place: Place
    daemon: Fork
    worker: Fork | None

    async def over(self) -> bool:
        """Whether the daemon has ended, and nothing is in the queue."""
        return await self.daemon.ended() and await self.place.waiting() == 0

    async def reads(self) -> bool:
        """Whether a run of it is under way."""
        query = "SELECT COUNT(*) FROM runs WHERE status = 'running' AND started_at >= :now"
        return bool(await self.place.one(query, now=self.place.clock.now()))

    async def wait(self) -> int:
        """The daemon's exit code, when all is over."""
        code = await self.daemon.wait()
        if self.worker is not None:
            await until(self.over)
            self.worker.kill(signal.SIGTERM)
            assert await self.worker.wait() == 0, self.said()[-3000:]
        return code

    async def killed_after(self, seconds: float, *, drains: bool) -> bool:
        """Whether the kill found it under way.

        ``drains``: the daemon alone is killed, and the worker told to stop; else both are killed, when a run is under way.
        """
        if self.worker is None:
            return await self.daemon.killed_after(seconds)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or not (drains or await self.reads()):
            if await self.over():
                await self.wait()
                return False
            await asyncio.sleep(0.01)
        self.daemon.kill()
        self.worker.kill(signal.SIGTERM if drains else signal.SIGKILL)
        assert await self.worker.wait() == (0 if drains else -signal.SIGKILL), self.said()[-3000:]
        await self.daemon.wait()
        return True

    def said(self) -> str:
        return self.daemon.said() + (self.worker.said() if self.worker is not None else "")


@asynccontextmanager
async def place(
    database_url: str,
    options: Options,
    *,
    born: datetime | None = BORN,
    clock: Clock | None = None,
    queued: bool = False,
    **settings: Any,
) -> AsyncIterator[Place]:
    """``born``: of the sandbox; None: now. ``queued``: in PostgreSQL, with a queue by way of which turns go. ``settings``:
    beside those that point at it, ``sources`` over each source's.
    """
    world = World(options, clock or StandingClock(born))
    own = settings.pop("sources", {})
    engine = {"kind": "pgqueuer", "heartbeat": "1s"} if queued else {}  # so long a dead worker has its jobs
    async with Sandbox(options, world=world) as box, queue_in(database_url) if queued else nullcontext():
        chosen = {
            "database": {"url": database_url},
            "secret_keys": KEY,
            "log": {"level": "warning"},
            "http": {"port": 0},
            "engine": engine,
            "sources": {name: mine | own for name, mine in addresses(box).items()},
        } | settings
        chosen["sources"]["gong"] |= {"limits": {"calls": GONG_SECOND}}
        database = Database(database_url)
        made = Place(box, database, chosen, queued=queued)
        await Store(database, world.clock.now).connections.put(made.lines(), Vault([KEY]).seal)
        try:
            yield made
        finally:
            await database.close()


def addresses(box: Sandbox) -> dict[str, dict[str, Any]]:
    """Source → the settings that point it at the sandbox."""
    sources: dict[str, dict[str, Any]] = {}
    for name, value in box.environment().items():
        _, source, *path, key = name.lower().removeprefix("syncd_").split("__")
        place = sources.setdefault(source, {})
        for one in path:
            place = place.setdefault(one, {})
        place[key] = value
    return sources


def tiny(seed: int, workspaces: int = 2, **sizes: Any) -> Options:
    switches = {"gong.second": GONG_SECOND}
    return Options(**{"seed": seed, "workspaces": workspaces, "switches": switches, **TINY, **sizes})


def changes(throw: Random, many: int) -> Iterator[list[Event]]:
    """For each source some changes, half an hour apart at the most. Nothing that ripens for days: months are for that.

    No history that expires either: of a mail that came and went to the bin before it, and before a run could see it,
    nothing tells any more.
    """
    for source in SOURCES:
        # a rename names a channel of the first workspace
        deeds = [deed for deed in DEEDS[source] if deed not in {"rename", "expire_history"} and "late" not in deed]
        moves = [Move(throw.uniform(0, 0.5), throw.choice(deeds), throw.randrange(6)) for _ in range(many)]
        yield events(source, moves)


async def caught_up(spot: Place, forks: Forks) -> int:
    """One turn in which the sweep and all of the backlog are due; answers how many more it took, as limits deferred it,
    a person had to connect anew, or what the dead left in the queue came first and was read for a turn of theirs.
    """
    spot.pass_time(timedelta(hours=25))
    for more in range(10):
        left, turn = await spot.waiting(), await spot.begin(forks)
        assert await turn.wait() in {0, 1}, f"{REPLAY}\n{turn.said()}"
        deferred = any(status["deferred_workspaces"] for status in orjson.loads(turn.daemon.out.read_bytes()))
        if not await spot.reconnect() and not deferred and not left:
            return more
        spot.pass_time(timedelta(minutes=15))
    raise AssertionError(f"{REPLAY}: not caught up after ten turns")


async def is_well(spot: Place, forks: Forks) -> None:
    """A turn in which the sweep and all of the backlog are due, and the next, which details what the sweep found: after
    these all is as if nothing had happened.
    """
    for passes in (timedelta(hours=25), timedelta(minutes=15)):
        spot.pass_time(passes)
        await spot.whole_turn(forks)
    assert (found := await spot.differences()) == [], "\n".join([REPLAY, *found])
    assert await spot.one("SELECT COUNT(*) FROM runs WHERE status = 'running'") == 0, REPLAY
    assert await spot.one("SELECT COUNT(*) FROM connections WHERE failures > 0 OR lease IS NOT NULL") == 0, REPLAY
    assert (found := spot.breaches()) == [], "\n".join([REPLAY, *found])


async def until(what: Callable[[], bool | Awaitable[bool]], at_most_s: float = WAIT_S) -> None:
    """Until ``what()`` is true. Raises TimeoutError."""
    async with asyncio.timeout(at_most_s):
        while not (done if isinstance(done := what(), bool) else await done):
            await asyncio.sleep(0.005)
