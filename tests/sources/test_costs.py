"""What a cycle costs in steps: calls of syncd's own functions, which no machine's load changes.

The bounds leave a quarter to what else may come. Counted: 9,968 and 5,665; 2,446 and 1,531; 3,015 and 1,240; 5,556 and 526.
"""

from __future__ import annotations

import cProfile
import pstats
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import syncd
from syncd.sandbox.world import StandingClock, World
from tests.sources.conftest import alone

OURS = f"{Path(syncd.__file__).parent}/"
SANDBOX = f"{OURS}sandbox/"
MONDAY = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


async def steps(r: Any) -> int:
    """How many a cycle takes."""
    profile = cProfile.Profile()
    profile.enable()
    assert (await r.run())["failures"] == []
    profile.disable()
    called = ((file, many) for (file, *_), (_, many, *_) in pstats.Stats(profile).stats.items())  # type: ignore[attr-defined]
    return sum(many for file, many in called if file.startswith(OURS) and not file.startswith(SANDBOX))


@pytest.mark.parametrize(
    ("source", "first", "idle"),
    [("slack", 12_500, 7000), ("gong", 3000, 1900), ("fathom", 3800, 1550), ("gmail", 7000, 660)],
)
async def test_a_cycle_takes_few_steps(reader: Any, sandbox: Any, source: str, first: int, idle: int) -> None:
    options = alone(source)
    r = await reader(source, box=await sandbox(options, World(options, StandingClock(MONDAY))), one_clock=True)
    taken = [await steps(r) for _ in range(3)]
    assert (taken[0] < first, taken[2] < idle) == (True, True), taken
