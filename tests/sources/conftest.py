"""`reader`: one connection of one source against a sandbox, through the real engine into a real store."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest_asyncio
from sqlalchemy import delete, select, update

from syncd import tables
from syncd.credentials import generate_key
from syncd.daemon import Parts, open_parts
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options, StandingClock, World
from syncd.settings import Settings
from syncd.store import Line
from tests.sources.slack_stage import stage

__all__ = ["reader", "stage"]


_HELD = {"slack": "messages_per_day", "gong": "calls_per_day", "fathom": "meetings_per_day", "gmail": "mails_per_day"}


def alone(source: str) -> Options:
    """Three workspaces in which the other vendors, whom nobody asks, hold nothing: making that takes its time."""
    others: dict[str, int] = {held: 0 for name, held in _HELD.items() if name != source}
    return Options(workspaces=3, limits=False, **others)  # type: ignore[arg-type]


class Reader:
    """``run`` is one cycle over the only connection; ``rows`` is what the store holds after it."""

    def __init__(self, parts: Parts, source: str, box: Any) -> None:
        self.parts, self.source, self.box = parts, source, box

    async def run(self, *, sweep: bool = False) -> dict[str, Any]:
        return await self.parts.engine.cycle(self.source, trigger="cli", sweep=sweep)

    async def after_the_limit(self) -> None:
        """What the vendor said about later is over: in the process's buckets and in the database."""
        self.parts.engine._buckets._buckets.clear()
        async with self.parts.store.database.write() as session:
            await session.execute(update(tables.connections).values(limited_until=None))
            await session.execute(delete(tables.budgets))

    async def rows(self, table: str) -> list[dict[str, Any]]:
        known = tables.metadata.tables[table]
        order = known.c.external_id if "external_id" in known.c else next(iter(known.primary_key))
        async with self.parts.store.database.read() as session:
            return [dict(row._mapping) for row in await session.execute(select(known).order_by(order))]

    async def backlog(self) -> list[dict[str, Any]]:
        return await self.rows("backlog")

    async def connection(self) -> dict[str, Any]:
        return (await self.rows("connections"))[0]


MakeReader = Callable[..., Awaitable[Reader]]


@pytest_asyncio.fixture
async def reader(tmp_path: Path, empty_sqlite: Path) -> AsyncIterator[MakeReader]:
    """``await reader("slack", …)``; see the brief of each parameter below."""
    async with AsyncExitStack() as stack:
        made = 0

        async def make(
            source: str,
            *,
            box: Any = None,  # a running sandbox (or anything with `.base` beside base_url)
            settings: Mapping[str, Any] | None = None,  # the connection's
            credentials: Mapping[str, Any] | None = None,  # default: the sandbox's own for the workspace
            workspace: str = "acme",
            overrides: Mapping[str, Any] | None = None,  # keys of the source's part of syncd.toml
            base_url: str | None = None,
            token_url: str | None = None,
            lookback: str | None = None,
            one_clock: bool = False,  # syncd's clock is the sandbox's
        ) -> Reader:
            nonlocal made
            made += 1
            if box is None:
                options = alone(source)
                world = World(options, StandingClock())  # nothing ripens by itself between two runs
                box = await stack.enter_async_context(Sandbox(options, world=world))
            limits = type(getattr(Settings().sources, source)).vendor_limits
            mine: dict[str, Any] = {"patience": "0s", "limits": dict.fromkeys(limits, "1000000/1s")}
            if isinstance(box, Sandbox):
                prefix = f"SYNCD_SOURCES__{source.upper()}__"
                mine |= {
                    key.removeprefix(prefix).lower(): value
                    for key, value in box.environment().items()
                    if key.startswith(prefix) and "__OAUTH__" not in key
                }
            mine |= {"base_url": base_url} if base_url else {}
            mine |= {"token_url": token_url} if token_url else {}
            mine |= {"lookback": lookback} if lookback else {}
            mine |= overrides or {}
            configured = Settings(
                database={"url": f"sqlite+aiosqlite:///{tmp_path}/{source}{made}.db"},
                secret_keys=generate_key(),
                sources={source: mine},
            )
            shutil.copy(empty_sqlite, tmp_path / f"{source}{made}.db")
            clock = {"now": box.world.clock.now} if one_clock else {}
            parts = await stack.enter_async_context(open_parts(configured, **clock))
            if credentials is None and isinstance(box, Sandbox):
                lines = [
                    one for one in box.connections() if one["source"] == source and one["workspace_id"] == workspace
                ]
                credentials = lines[0]["credentials"]
            line = Line(
                workspace_id=workspace,
                source=source,
                account="",
                settings=settings or {},
                credentials=credentials or {},
            )
            await parts.store.connections.put([line], parts.vault.seal)
            return Reader(parts, source, box)

        yield make
