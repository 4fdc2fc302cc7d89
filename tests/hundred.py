"""A hundred connections of four vendors, of which one is revoked, one late, one limited, and one vendor is away."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, update

from syncd import tables
from syncd.daemon import Parts
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options
from syncd.store import Line
from tests.connecting import SOURCES, serving, settings

SMALL = Options(
    workspaces=25,
    days=1,
    channels=1,
    messages_per_day=1,
    calls_per_day=1,
    meetings_per_day=1,
    mails_per_day=1,
    limits=False,
)
TURN = timedelta(minutes=15)


@asynccontextmanager
async def hundred(box: Sandbox, url: str, **more: Any) -> AsyncIterator[tuple[Parts, str]]:
    """All are as if read well all day long; then real runs meet the trouble: (parts, address)."""
    # No turn comes while somebody looks: it would make the late one overdue.
    cron = f"{(datetime.now(UTC).minute + 7) % 15}-59/15 * * * *"
    async with serving(settings(box, url, cron=cron, **more)) as (parts, base):
        known = [Line(**{**line, "settings": line.get("settings", {})}) for line in box.connections()]
        await parts.store.connections.put(known, parts.vault.seal)
        await a_day(parts)
        await trouble(parts, box)
        await late(parts)
        yield parts, base


async def trouble(parts: Parts, box: Sandbox) -> None:
    """Slack's third customer revokes its token, Fathom has enough of its third one, nobody reaches Gong."""
    third = list(box.world.companies)[2]
    box.slack.act(third, "revoke", {})
    box.world.faults.add({"kind": "429", "vendor": "fathom", "workspace": third, "seconds": 1800})
    box.world.faults.add({"kind": "503", "vendor": "gong"})
    for name, workspace in (("slack", third), ("fathom", third), ("gong", None)):
        await parts.engine.cycle(name, trigger="cli", workspace=workspace)


async def late(parts: Parts) -> None:
    """Nobody read the third mailbox for a turn and a half, as when a run of it hung."""
    plan, now, of = parts.engine.plans["gmail"], datetime.now(UTC), tables.connections.c
    since = plan.turns_ago(now, 1) - timedelta(minutes=5)
    rows = [one for one in await parts.store.connections.all() if one.source == "gmail"]
    long_ago = {"last_success_at": since, "status_since": since - timedelta(days=1)}
    async with parts.store.database.write() as session:
        await session.execute(update(tables.connections).where(of.id == rows[2].id).values(**long_ago))


async def a_day(parts: Parts, *, seed: int = 1) -> None:
    """Made-up cycles and runs of the day before: all were read a moment ago, and the pictures have something to draw."""
    dice, now, of = random.Random(seed), datetime.now(UTC), tables.connections
    rows = await parts.store.connections.all()
    read = {"last_success_at": now, "status_since": now - timedelta(days=2), "created_at": now - timedelta(days=3)}
    async with parts.store.database.write() as session:
        await session.execute(update(of).values(next_sync_at=now, **read))
    for name in SOURCES:
        mine = [row for row in rows if row.source == name]
        async with parts.store.database.write() as session:
            for back in range(95, 0, -1):
                at = now - TURN * back
                busy = 4 + 8 * max(0.0, 1 - abs(at.hour + at.minute / 60 - 13) / 6)
                failed = dice.choice([0] * 30 + [1, 1, 3])
                counts = {"total": int(busy * dice.uniform(8, 20)), "added": int(busy * 3), "calls": len(mine) * 2}
                ways = {"successful_workspaces": len(mine) - failed, "failed_workspaces": failed}
                ended = {"status": "success", "started_at": at, "finished_at": at + timedelta(seconds=busy)}
                made = await session.execute(
                    insert(tables.cycles).values(source=name, trigger="schedule", turn=at, **ended, **counts, **ways)
                )
                if back > 20:
                    continue
                cycle = made.inserted_primary_key[0]
                ways = [dice.choice(["succeeded"] * 12 + ["deferred"]) for _ in mine]
                await session.execute(
                    insert(tables.runs),
                    [
                        {"cycle_id": cycle, "connection_id": row.id, "status": way, "started_at": at,
                         "finished_at": at + timedelta(seconds=dice.uniform(0.3, 4)), "records": dice.randrange(30), "calls": 2}
                        for row, way in zip(mine, ways, strict=True)
                    ],
                )  # fmt: skip
