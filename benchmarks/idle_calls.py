"""How many calls an idle connection costs in a cycle: ``python -m benchmarks.idle_calls``.

Against the sandbox on loopback, with SQLite in a temporary folder. All is read and ripe; a quarter of an hour later
comes a cycle in which nothing is new. Exits 1 when it makes more calls than promised: one per selected channel of
Slack, one of Gong, Fathom and Gmail each.

The last column is the most that an idle cycle of the next day makes, one an hour: Slack lists people and channels once
an hour and asks for replies to old threads, Gmail lists its labels, tokens are renewed. Sweeps are not in it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncd import logs
from syncd.cli.terminal import out, table
from syncd.credentials import generate_key
from syncd.daemon import open_parts
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options, StandingClock, World
from syncd.settings import Settings
from syncd.sources import SOURCES
from syncd.store import Line

if TYPE_CHECKING:
    from syncd.daemon import Parts

OPTIONS = Options(workspaces=2, limits=False)
RIPE = timedelta(days=3)
TURN = timedelta(minutes=15)


def configured(box: Sandbox, folder: str) -> Settings:
    sources: dict[str, dict[str, Any]] = {}
    for name, value in box.environment().items():
        _, source, *path = name.lower().removeprefix("syncd_").split("__")
        if len(path) == 1:  # the apps by which people sign in are no matter here
            sources.setdefault(source, {})[path[0]] = value
    for name, mine in sources.items():
        mine["limits"] = dict.fromkeys(type(getattr(Settings().sources, name)).vendor_limits, "1000000/1s")
    url = f"sqlite+aiosqlite:///{Path(folder) / 'syncd.db'}"
    return Settings(database={"url": url}, secret_keys=generate_key(), sources=sources)


async def cycles(box: Sandbox, parts: Parts) -> Counter[tuple[str, str]]:
    """A cycle of each source; answers the calls that it made, by source and workspace."""
    box.world.ledger.clear()
    for name in SOURCES:
        status = await parts.engine.cycle(name, trigger="cli")
        if status["failures"]:
            raise SystemExit(f"{name}: {status['failures']}")
    return Counter((call.vendor, call.workspace) for call in box.world.ledger)


async def measured(box: Sandbox, parts: Parts) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """The calls of an idle cycle, and the most of any in the day after it, one an hour."""
    clock = box.world.clock
    await cycles(box, parts)
    for wait in (RIPE, TURN):
        clock.advance(wait)
        await cycles(box, parts)
    clock.advance(TURN)
    idle, most = await cycles(box, parts), Counter[tuple[str, str]]()
    for _ in range(24):
        clock.advance(timedelta(hours=1))
        most |= await cycles(box, parts)
    return idle, most


async def main() -> int:
    world = World(OPTIONS, StandingClock())
    with tempfile.TemporaryDirectory(prefix="syncd-idle-") as folder:
        async with (
            Sandbox(OPTIONS, world=world) as box,
            open_parts(configured(box, folder), migrate=True, now=world.clock.now) as parts,
        ):
            lines = [
                Line(**{key: part for key, part in one.items() if key != "is_active"}) for one in box.connections()
            ]
            await parts.store.connections.put(lines, parts.vault.seal)
            idle, most = await measured(box, parts)
            channels = {one: len(box.slack.holdings(one)["conversations"]) for one in world.companies}
    promised = {(name, one): channels[one] if name == "slack" else 1 for name in SOURCES for one in world.companies}
    table(
        ("source", "workspace", "promised", "calls of an idle cycle", "the most in a day"),
        ((*which, calls, idle[which], most[which]) for which, calls in promised.items()),
        title="Calls per idle connection and cycle",
    )
    above = [which for which, calls in promised.items() if idle[which] > calls]
    for name, workspace in above:
        out.print(f"[red]too many:[/red] {name} of {workspace}")
    return 1 if above else 0


if __name__ == "__main__":
    logs.set_up("error", "auto")
    sys.exit(asyncio.run(main()))
