"""Comparing what the vendors hold with what is stored: `syncd verify`. Nothing is stored but a renewed token."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from syncd.errors import LeaseLost, SealError, SourceError
from syncd.live import Errand
from syncd.logs import redact
from syncd.memory import remembered
from syncd.records import Conversation, Meeting, Message, Person, Transcript
from syncd.runs import told
from syncd.tasks import all_of, to_its_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from datetime import datetime

    from syncd.credentials import Vault
    from syncd.engine import Engine
    from syncd.http import Link
    from syncd.plan import Plan
    from syncd.records import Kind
    from syncd.source import Page
    from syncd.store import Connection, Store

log = structlog.get_logger(__name__)

IDS_KEPT = 1000  # of each class; the counts go on
LONGEST_WAIT = timedelta(minutes=2)  # for another process's run of the connection
_POLL_S = 1.0
_NAMES: dict[Kind, str] = {
    Person: "people",
    Conversation: "conversations",
    Message: "messages",
    Meeting: "meetings",
    Transcript: "transcripts",
}


@dataclass(slots=True)
class Differences:
    """The records of one class of difference: all are counted, by kind; the first thousand are named."""

    by_kind: Counter[str] = field(default_factory=Counter)
    named: dict[tuple[str, str], None] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return self.by_kind.total()

    def __bool__(self) -> bool:
        return bool(self.named)

    def add(self, kind: Kind, ids: Iterable[str]) -> None:
        """A record that several pages give is counted once, at least while it is among those that are kept."""
        for one in ids:
            key = (_NAMES[kind], one)
            if key not in self.named:
                self.by_kind[key[0]] += 1
                if len(self.named) < IDS_KEPT:
                    self.named[key] = None


@dataclass(slots=True)
class Finding:
    """What the comparison of one connection found.

    ``missing``: at the vendor, not stored; ``stale``: stored with other content; ``extra``: stored live, but the vendor
    no longer has it. ``waiting``: at the vendor, not ready yet; ``backlog``: how many things the backlog holds.
    ``error``: why the comparison is not complete.
    """

    connection: Connection
    checked: int = 0
    missing: Differences = field(default_factory=Differences)
    stale: Differences = field(default_factory=Differences)
    extra: Differences = field(default_factory=Differences)
    waiting: int = 0
    backlog: int = 0
    facts: dict[str, None] = field(default_factory=dict)
    calls: int = 0
    error: str | None = None
    doing: str = "waits"

    @property
    def clean(self) -> bool:
        return self.error is None and not (self.missing or self.stale or self.extra)


class Audit:
    """Compares connections with their vendors. ``days``: how far back, None = the sweep's lookback.

    ``sample``: how many things are asked for one by one where no listing shows them; None = all. ``now``: the process's
    clock.
    """

    def __init__(
        self,
        connections: Iterable[Connection],
        *,
        engine: Engine,
        store: Store,
        vault: Vault,
        now: Callable[[], datetime],
        days: int | None = None,
        sample: int | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.findings = [Finding(one) for one in connections]
        self._engine, self._store, self._vault = engine, store, vault
        self._days, self._sample, self._now, self._sleep = days, sample, now, sleep
        self._slots = {name: asyncio.Semaphore(plan.slots) for name, plan in engine.plans.items()}

    async def run(self) -> None:
        """Compare every connection; one's failure stops no other."""
        backlogs = {row["id"]: row["backlog"] for row in await self._store.status.connections()}
        for found in self.findings:
            found.backlog = backlogs.get(found.connection.id, 0)
        await all_of(self._examined(found) for found in self.findings)

    async def _examined(self, found: Finding) -> None:
        one = found.connection
        if one.unread:
            found.error = one.unread
        elif not self._engine.plans[one.source].source.audit:
            found.error = f"{one.source} cannot be compared with its vendor"
        else:
            try:
                async with self._slots[one.source]:
                    await self._held(found)
            except (SQLAlchemyError, OSError) as error:
                found.error = told(error)
        found.doing = ""

    async def _held(self, found: Finding) -> None:
        """Compare while the lease is ours: a run in between would make differences of its own."""
        lease = self._engine.new_lease()
        try:
            connection = await self._hold(found, lease)
            if connection is not None:
                keeper = asyncio.create_task(self._engine.runs.keep_lease(connection.id, lease))
                try:
                    await self._compared(found, connection, lease)
                finally:
                    keeper.cancel()
        finally:
            await to_its_end(self._store.connections.release(found.connection.id, lease))

    async def _hold(self, found: Finding, lease: str) -> Connection | None:
        """Take the lease; a run of another process is waited for."""
        gives_up = self._now() + LONGEST_WAIT
        while (connection := await self._store.connections.hold(found.connection.id, lease)) is None:
            if self._now() >= gives_up:
                found.error = "another process reads it (one that died holds it for five minutes); verify again then"
                return None
            found.doing = "waits for another process that reads it"
            await self._sleep(_POLL_S)
        found.connection = connection
        if connection.unread:
            found.error = connection.unread
        elif connection.limited_until is not None and connection.limited_until > self._now():
            found.error = f"its vendor asks to wait until {connection.limited_until:%Y-%m-%d %H:%M} UTC"
        return None if found.error else connection

    async def _compared(self, found: Finding, connection: Connection, lease: str) -> None:
        plan, link = self._engine.plans[connection.source], None
        try:
            credentials = self._vault.open(connection.id, connection.sealed)
            link = self._engine.runs.link(plan, connection, credentials, lease=lease)
            async with remembered(link, self._store), plan.source.connect(link) as api:
                await self._streams(found, plan, api, link)
            # Whoever took the lease meanwhile may have written: then the differences are not the store's.
            await self._store.pages.renew(connection.id, lease)
        except Exception as error:  # one connection's trouble stops no other
            found.error = told(error, link.secrets if link else ())
            if not isinstance(error, SourceError | SealError | LeaseLost | SQLAlchemyError | OSError):
                log.error("verify.defect", exc_info=error)
        finally:
            found.calls = link.calls if link else 0

    async def _streams(self, found: Finding, plan: Plan, api: Any, link: Link) -> None:
        now, mine = self._now(), found.connection
        since = replace(
            self._engine.runs.since(plan, mine, now, Errand(streams=plan.source.audit, sweep_due_at=now)),
            sample=self._sample,
        )
        if self._days is not None:
            since = replace(since, lookback=timedelta(days=self._days))
        for stream in plan.source.audit:
            found.doing = f"compares {stream.name}"
            cursors = await self._store.looks.cursors(mine.id, stream.name)
            pages: Any = stream.read(api, replace(since, cursors=cursors))
            async with aclosing(pages):
                async for page in pages:
                    await self._page(found, page, link)
                    found.calls = link.calls

    async def _page(self, found: Finding, page: Page, link: Link) -> None:
        held = self._store.looks.of(found.connection.id)
        for kind in _NAMES:
            records = [one for one in page.records if type(one) is kind]
            if records:
                missing, stale = await held.compared(kind, records)
                found.checked += len({one.external_id for one in records})
                found.missing.add(kind, missing)
                found.stale.add(kind, stale)
            gone = [one.external_id for one in page.deletions if one.kind is kind]
            if gone:
                found.extra.add(kind, sorted(await held.stored(kind, gone)))
        found.waiting += len(page.pending)
        for note in page.notes:
            found.facts[redact(note, link.secrets)] = None
