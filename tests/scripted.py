"""The one scripted source: its streams do what a test tells them, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from syncd.credentials import Vault, generate_key
from syncd.dispatch import Dispatch
from syncd.engine import Engine
from syncd.http import Link
from syncd.limits import Buckets
from syncd.local import Local
from syncd.metrics import Metrics
from syncd.plan import Plan
from syncd.records import Message
from syncd.source import Estimate, Page, Report, Since, Source, Stream
from syncd.store import Line, Store

Script = Callable[[Link, Since], AsyncIterator[Page]]


def message(name: str, words: str = "hi") -> Message:
    return Message(external_id=name, conversation_id="C", raw={"id": name, "text": words}, text=words)


def pages(*steps: Page | Exception) -> Script:
    """A stream that yields these pages, or raises where an error stands."""

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        for step in steps:
            if isinstance(step, Exception):
                raise step
            yield step

    return read


def older(*names: str, before: Callable[[str], object] = lambda _: None) -> Script:
    """Older history of these messages, one a page: it goes on after its cursor, and drops that at the end.

    ``before``: called with each message's name before its page; what it raises ends the stint.
    """

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        assert since.back_to is not None
        reach, _, last = since.cursors.get("", "").partition("|")
        done = names.index(last) + 1 if reach == since.back_to.isoformat() else 0
        for at, one in enumerate(names[done:], done):
            before(one)
            days = timedelta(days=at + 1)
            yield Page(records=[message(one)], cursor=f"{since.back_to.isoformat()}|{one}", reached=since.now - days)
        yield Page(forget=[""])

    return read


def source(
    *scripts: Script,
    name: str = "slack",
    backfill: Sequence[Script] = (),
    estimate: Callable[[Any, Since], Awaitable[Estimate]] | None = None,
    audit: Sequence[Script] = (),
) -> Source:
    @asynccontextmanager
    async def connect(link: Link) -> AsyncIterator[Link]:
        yield link

    async def check(api: Any) -> Report:
        return Report("scripted")

    async def known(api: Any, since: Since) -> Estimate:
        return Estimate(2, {}, "2 messages")

    return Source(
        name=name,
        connect=connect,
        streams=tuple(Stream(f"stream{at}" if at else "messages", script) for at, script in enumerate(scripts)),
        counts=Message,
        total_name="total_messages",
        credentials=(frozenset({"token"}),),
        settings={},
        check=check,
        backfill=tuple(Stream(f"backfill{at or ''}", script) for at, script in enumerate(backfill)),
        estimate=estimate or known,
        audit=tuple(Stream(f"stream{at}" if at else "messages", script) for at, script in enumerate(audit)),
    )


def plan(scripted: Source, **changes: Any) -> Plan:
    known: dict[str, Any] = {
        "source": scripted,
        "slots": 4,
        "lookback": timedelta(hours=24),
        "sweep_every": timedelta(hours=6),
        "sweep_lookback": timedelta(days=7),
        "run_timeout": timedelta(minutes=10),
        "patience_s": 0.0,
        "options": {"base_url": "http://127.0.0.1:9"},
        "rates": {},
        "next_turn": lambda after: after + timedelta(minutes=15),
        "last_turn": lambda before: before - timedelta(minutes=15),
    }
    return Plan(**known | changes)


class Bench:
    """An engine over a scripted source and a real store; no test of it reaches a network."""

    def __init__(
        self,
        store: Store,
        scripted: Source,
        clock: Callable[[], datetime] | None = None,
        *,
        vault: Vault | None = None,
        dispatch: Callable[[Engine], Dispatch] = Local,
        **changes: Any,
    ) -> None:
        self.store = store
        self.vault = vault or Vault([generate_key()])
        self.metrics = Metrics()
        self.engine = Engine(
            plans={scripted.name: plan(scripted, **changes)},
            store=store,
            vault=self.vault,
            net=None,  # type: ignore[arg-type]
            buckets=Buckets(),
            metrics=self.metrics,
            now=clock or (lambda: datetime.now(UTC)),
            dispatch=dispatch,
        )

    async def connect(self, *workspaces: str, source_name: str = "slack") -> None:
        lines = [Line(workspace_id=one, source=source_name, credentials={"token": f"t-{one}"}) for one in workspaces]
        await self.store.connections.put(lines, self.vault.seal)

    async def cycle(self, **how: Any) -> dict[str, Any]:
        return await self.engine.cycle("slack", trigger="cli", **how)

    async def rows(self, table: str) -> Sequence[Any]:
        from sqlalchemy import select

        from syncd import tables

        known = tables.metadata.tables[table]
        async with self.store.database.read() as session:
            return (await session.execute(select(known).order_by(*known.primary_key))).all()
