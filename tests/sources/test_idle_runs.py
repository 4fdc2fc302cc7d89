"""An idle run of each source costs few questions to the database: counts, for times differ from machine to machine."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options, StandingClock, World

TURN = timedelta(minutes=15)
# Of a cycle with one connection: its own four transactions with nine statements, the run's, and one or two to spare.
MOST = {"slack": (20, 9), "gong": (20, 9), "fathom": (20, 9), "gmail": (18, 8)}


@pytest.mark.parametrize("source", list(MOST))
async def test_an_idle_run_asks_the_database_little(reader: Any, source: str) -> None:
    sizes: dict[str, Any] = {"days": 1, "channels": 2, "messages_per_day": 3, "calls_per_day": 1, "meetings_per_day": 1}
    options = Options(workspaces=1, limits=False, mails_per_day=2, **sizes)
    async with Sandbox(options, world=World(options, StandingClock())) as box:
        one = await reader(source, box=box, one_clock=True)
        for wait in (timedelta(0), timedelta(days=3), TURN, TURN):
            box.world.clock.advance(wait)
            await one.run()
        box.world.clock.advance(TURN)
        counts = {"before_cursor_execute": 0, "begin": 0}

        def heard(name: str) -> Any:
            def count(*_: object) -> None:
                counts[name] += 1

            return count

        engine = one.parts.store.database.engine.sync_engine
        for name in counts:
            event.listen(engine, name, heard(name))
        status = await one.run()
    assert (status["successful_workspaces"], status["added"] + status["changed"]) == (1, 0)
    transactions = counts["begin"]
    statements = counts["before_cursor_execute"] - transactions  # SQLite's BEGIN is one as well
    most = MOST[source]
    assert statements <= most[0]
    assert transactions <= most[1]
