"""Calls per cycle for an idle and a busy connection of each vendor, with the reason for each."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from benchmarks.idle_calls import OPTIONS, RIPE, TURN, configured, cycles
from benchmarks.tables import Table
from syncd.daemon import open_parts
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import StandingClock, World
from syncd.sources import SOURCES
from syncd.store import Line

if TYPE_CHECKING:
    import pathlib

    from benchmarks.subjects import Setting
    from syncd.daemon import Parts

REASONS = {
    "slack users.list": "names: once an hour, at most",
    "slack users.conversations": "which conversations there are: once an hour, at most",
    "slack conversations.history": "one per conversation: Slack has no call that tells what is new in several",
    "slack conversations.replies": "one per thread that grew by its parent's counters, or whose watch is due",
    "slack conversations.info": "a chosen conversation: once an hour, at most",
    "slack auth.test": "whose token it is: when it is connected or checked",
    "gong calls/extensive": "the window of calls: their only filter is when they began; a further one by id where "
    "content is awaited or a call is no longer listed",
    "gong calls/transcript": "a hundred calls at once, of those whose transcript is awaited",
    "gong users": "names: once an hour, at most",
    "fathom meetings": "the window of meetings: their only filter is when they were made",
    "fathom transcript": "of a meeting whose transcript is awaited: OAuth apps get none with the list",
    "fathom summary": "of a meeting whose summary is awaited: OAuth apps get none with the list",
    "gmail history.list": "what changed since the last one, of the whole mailbox",
    "gmail threads.get": "one per thread that changed",
    "gmail getProfile": "where the history begins: once, before the first listing",
    "gmail threads.list": "the newest threads of each label: in the first run",
    "gmail labels.list": "which labels there are: once a day",
    "gmail token": "an access token lives an hour",
}
BUSY = (
    ("slack", "post", {}), ("slack", "post", {}), ("slack", "reply", {}),
    ("gong", "add", {"minutes_ago": 30}), ("fathom", "add", {"title": "Kickoff"}),
    ("gmail", "add", {"subject": "Offer"}), ("gmail", "add", {"subject": "Question"}),
)  # fmt: skip


async def counted(box: Sandbox, parts: Parts) -> dict[str, dict[str, Counter[str]]]:
    """Kind of cycle → source → calls by method, of the first workspace."""
    clock, workspace = box.world.clock, next(iter(box.world.companies))

    async def cycle() -> dict[str, Counter[str]]:
        await cycles(box, parts)
        found = {name: Counter[str]() for name in SOURCES}
        for call in box.world.ledger:
            if call.workspace == workspace:
                found[call.vendor][call.method] += 1
        return found

    kinds = {"first": await cycle()}
    for wait in (RIPE, TURN):
        clock.advance(wait)
        await cycle()
    clock.advance(TURN)
    kinds["idle"] = await cycle()
    clock.advance(TURN / 2)
    for vendor, action, body in BUSY:
        box.vendors[vendor].act(workspace, action, body)
    clock.advance(TURN / 2)
    kinds["busy"] = await cycle()
    hourly = {name: Counter[str]() for name in SOURCES}
    for _ in range(24):
        clock.advance(timedelta(hours=1))
        for name, calls in (await cycle()).items():
            hourly[name] |= calls
    kinds["day"] = hourly
    return kinds


async def _measured(folder: pathlib.Path) -> tuple[dict[str, dict[str, Counter[str]]], int]:
    world = World(OPTIONS, StandingClock())
    async with (
        Sandbox(OPTIONS, world=world) as box,
        open_parts(configured(box, str(folder)), migrate=True, now=world.clock.now) as parts,
    ):
        lines = [Line(**{key: part for key, part in one.items() if key != "is_active"}) for one in box.connections()]
        await parts.store.connections.put(lines, parts.vault.seal)
        rooms = len(box.slack.holdings(next(iter(world.companies)))["conversations"])
        return await counted(box, parts), rooms


def table(setting: Setting) -> list[Table]:
    folder = setting.out / "calls"
    folder.mkdir()
    kinds, rooms = asyncio.run(_measured(folder))
    head = ("call", "first cycle", "idle cycle", "busy cycle", "most of a cycle in a day", "why it is made")
    made = Table("Calls per connection and cycle", head)
    for name in SOURCES:
        for method in sorted({method for kind in kinds.values() for method in kind[name]}):
            call = f"{name} {method}"
            counts = [kinds[kind][name][method] or "" for kind in ("first", "idle", "busy", "day")]
            made.rows.append((call, *counts, REASONS.get(call, "?")))
    made.notes.append(
        f"A Slack workspace with {rooms} conversations. Busy: two messages and a reply in Slack, a call that is ready, "
        "a meeting that is ready, two mails, between two cycles. The last figures are of a quiet day with one cycle an "
        "hour, sweeps left out."
    )
    return [made]


if __name__ == "__main__":
    print(json.dumps(REASONS, indent=1))
