"""`stage`: one Slack connection whose vendor is acted on, with syncd's clock and Slack's the same and standing still."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from syncd import tables
from syncd.credentials import generate_key
from syncd.daemon import Parts, open_parts
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options, StandingClock, World
from syncd.settings import Settings
from syncd.sources.slack import SOURCE
from syncd.store import Line
from tests.sources.test_contract import Cut

CHANNEL = "C000000000"


class Stage:
    """One connection of acme, with syncd's clock and Slack's the same and standing still."""

    def __init__(self, box: Sandbox, parts: Parts) -> None:
        self.box, self.parts = box, parts

    def act(self, action: str, **body: Any) -> Any:
        """Each thing a second after the one before."""
        self.box.world.clock.advance(timedelta(seconds=1))
        return self.box.slack.act("acme", action, body)

    def post(self, text: str = "hello", **body: Any) -> str:
        return str(self.act("post", channel=CHANNEL, text=text, **body)["ts"])

    def reply(self, ts: str, text: str = "yes", **body: Any) -> str:
        return str(self.act("reply", channel=CHANNEL, ts=ts, text=text, **body)["ts"])

    def delete(self, ts: str) -> None:
        self.act("delete", channel=CHANNEL, ts=ts)

    async def after(self, *, sweep: bool = False, **later: float) -> dict[str, Any]:
        """A cycle, so much later."""
        self.box.world.clock.advance(timedelta(**later) or timedelta(seconds=1))
        return await self.parts.engine.cycle("slack", trigger="cli", sweep=sweep)

    async def row(self, ts: str) -> Any:
        known = tables.messages
        query = select(known).where(known.c.external_id == f"{CHANNEL}:{ts}")
        async with self.parts.store.database.read() as session:
            return (await session.execute(query)).one_or_none()

    async def is_live(self, ts: str) -> bool:
        row = await self.row(ts)
        return row is not None and row.deleted_at is None

    async def rows(self, table: str) -> list[Any]:
        async with self.parts.store.database.read() as session:
            return list(await session.execute(select(tables.metadata.tables[table])))

    def cut(self, pages: int | None) -> None:
        """From now on each run is cut after so many pages of messages; None: no more."""
        cut = Cut(pages) if pages is not None else lambda read: read
        streams = [
            replace(one, read=cut(one.read)) if one.name in {"messages", "threads", "sweep"} else one
            for one in SOURCE.streams
        ]
        plans = self.parts.engine.plans
        source = replace(SOURCE, streams=tuple(streams))
        self.parts.engine.plans = {**plans, "slack": replace(plans["slack"], source=source)}


MakeStage = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def stage(tmp_path: Path, empty_sqlite: Path) -> AsyncIterator[MakeStage]:
    async with AsyncExitStack() as stack:

        async def make(channels: Any = (CHANNEL,), page_size: int = 0, **overrides: Any) -> Stage:
            options = Options(workspaces=1, days=1, channels=1, messages_per_day=0, page_size=page_size, limits=False)
            box = await stack.enter_async_context(Sandbox(options, world=World(options, StandingClock())))
            shutil.copy(empty_sqlite, tmp_path / "late.db")
            mine = {"base_url": f"{box.base}/slack/api/", "patience": "0s"}
            mine |= {"limits": dict.fromkeys(type(Settings().sources.slack).vendor_limits, "1000000/1s")}
            settings = Settings(
                database={"url": f"sqlite+aiosqlite:///{tmp_path}/late.db"},
                secret_keys=generate_key(),
                sources={"slack": mine | overrides},
            )
            parts = await stack.enter_async_context(open_parts(settings, now=box.world.clock.now))
            line = next(iter(box.slack.connections()))
            chosen = {"channels": channels if channels == "*" else list(channels)}
            known = Line(workspace_id="acme", source="slack", credentials=line["credentials"], settings=chosen)
            await parts.store.connections.put([known], parts.vault.seal)
            return Stage(box, parts)

        yield make
