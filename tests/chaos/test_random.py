"""All at once, by a seed: vendors that fail in every way, data that changes, kills; then quiet, and the truth.

``SYNCD_CHAOS=200 pytest tests/chaos/test_random.py`` makes that many turns on each database; with
``SYNCD_KIND=pgqueuer`` by way of a queue.
"""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

import pytest

from syncd.sandbox.faults import KINDS
from syncd.sources import SOURCES
from tests.chaos.forks import Forks
from tests.chaos.place import caught_up, changes, place, tiny
from tests.chaos.seeds import LENGTH, REPLAY, dice
from tests.queueing import DATABASES, QUEUED

TURNS = LENGTH or 4
LIES = {"404", "nulls", "wrong-types"}  # what they tell is believed: a record that is gone, or that says nothing
HEAVY = {"huge", "gzip-bomb", "endless-body", "endless-pages", "deep"}  # seconds of work for the sandbox
CHOICE = sorted(set(KINDS) - LIES - (set() if LENGTH else HEAVY))
ATTEMPT_S = 0.5


def fault(throw: Random, workspaces: list[str]) -> dict[str, Any]:
    return {
        "kind": throw.choice(CHOICE),
        "vendor": throw.choice([*SOURCES, "*"]),
        "workspace": throw.choice([*workspaces, "*"]),
        "times": throw.randrange(1, 4),
        "skip": throw.randrange(6),
        "seconds": throw.choice((0.1, 1, 60, 900)),
    }


@pytest.mark.parametrize("database_url", DATABASES if LENGTH else ["postgres"], indirect=True)
async def test_after_turns_of_everything_some_quiet_turns_make_the_database_the_truth(
    database_url: str, forks: Forks
) -> None:
    throw = dice("random")
    options = tiny(throw.randrange(1000))
    async with place(database_url, options, queued=QUEUED, sources={"patience": "0s"}) as spot:
        await spot.whole_turn(forks)
        workspaces = list(spot.box.world.companies)
        for workspace in workspaces:
            for made in changes(throw, min(3 * TURNS, 60)):
                spot.events(workspace, made)
        rules = spot.box.world.faults
        for _ in range(TURNS):
            spot.pass_time(timedelta(minutes=throw.uniform(6, 60)))
            rules.rules.clear()
            for _ in range(throw.randrange(1, 5)):
                rules.add(fault(throw, workspaces))
            turn = await spot.begin(forks, attempt_s=ATTEMPT_S)
            await turn.killed_after(throw.choice((throw.uniform(0, 1), 60)), drains=throw.random() < 0.5)
            assert "Traceback" not in turn.said(), f"{REPLAY}\n{turn.said()}"
            await spot.reconnect()
        rules.rules.clear()
        for _ in range(2):  # whatever the failures were, their waits are over; a sweep, and what it found in detail
            await caught_up(spot, forks)
        assert (found := await spot.differences()) == [], "\n".join([REPLAY, *found])
        bad = "SELECT COUNT(*) FROM connections WHERE status <> 'ok' OR failures > 0 OR lease IS NOT NULL"
        assert await spot.one(bad) == 0, REPLAY
        assert await spot.one("SELECT COUNT(*) FROM runs WHERE status = 'running'") == 0, REPLAY
        assert await spot.one("SELECT COUNT(*) FROM runs WHERE error_kind = 'internal'") == 0, REPLAY
        assert (found := spot.breaches()) == [], "\n".join([REPLAY, *found])
