"""What a cycle costs in steps, which no machine's load changes: calls of syncd's own functions, and statements.

The bounds leave a quarter to what else may come. In an idle cycle a day's messages, calls, meetings are in the window.
"""

from __future__ import annotations

import cProfile
import pstats
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import syncd
from benchmarks.idle_run import counted
from syncd.sandbox.world import StandingClock, World
from tests.sources.conftest import alone

OURS = f"{Path(syncd.__file__).parent}/"
SANDBOX = f"{OURS}sandbox/"
MONDAY = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


async def steps(r: Any) -> tuple[int, int]:
    """How many function calls and statements a cycle takes."""
    profile = cProfile.Profile()
    with counted(r.parts.store.database) as counts:
        profile.enable()
        assert (await r.run())["failures"] == []
        profile.disable()
    called = ((file, many) for (file, *_), (_, many, *_) in pstats.Stats(profile).stats.items())  # type: ignore[attr-defined]
    mine = sum(many for file, many in called if file.startswith(OURS) and not file.startswith(SANDBOX))
    return mine, counts.statements


@pytest.mark.parametrize(
    ("source", "first", "idle"),
    [
        ("slack", (12_500, 78), (6000, 54)),
        ("gong", (3200, 80), (1900, 46)),
        ("fathom", (4000, 82), (1560, 46)),
        ("gmail", (7000, 80), (650, 31)),
    ],
)
async def test_a_cycle_takes_few_steps(
    reader: Any, sandbox: Any, source: str, first: tuple[int, int], idle: tuple[int, int]
) -> None:
    options = alone(source)
    r = await reader(source, box=await sandbox(options, World(options, StandingClock(MONDAY))), one_clock=True)
    taken = [await steps(r) for _ in range(3)]
    within = [
        done <= most for cycle, bound in ((0, first), (2, idle)) for done, most in zip(taken[cycle], bound, strict=True)
    ]
    assert within == [True] * 4, taken
