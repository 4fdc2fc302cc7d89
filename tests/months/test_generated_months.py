"""Months that Hypothesis makes up, within what is promised; one that fails shrinks to a few events.

In CI a few, on SQLite. ``SYNCD_MONTHS=200 pytest tests/months`` makes that many for each source and both databases,
with smaller steps and every variant of the scripted month as well; it takes hours. A failure prints the blob that
reproduces it (``@reproduce_failure``).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from syncd.sandbox.month import Event, Month
from syncd.sources import SOURCES
from tests.months.moves import DEEDS, LONGEST_RIPENING, WAITS, Move, events, shown
from tests.months.reading import MANY, REST, Cuts, emptied, reading
from tests.queueing import DATABASES

STEP = timedelta(hours=18)  # a message of six days is changed, and a sweep comes before it is seven days old
CHANNEL = "C000000000"


async def check(source: str, database_url: str, made: list[Event], cut: int | None) -> None:
    await emptied(database_url)
    cuts = None if cut is None else Cuts(cut)
    chosen: dict[str, Any] = {"channels": [CHANNEL]} if source == "slack" else {}
    async with reading(source, database_url, cuts=cuts, settings=chosen) as one:
        month, end = Month(one.box, one.workspace, made), made[-1].at + LONGEST_RIPENING
        await one.live_through(month, end, STEP)
        one.rest()
        await one.live_through(month, end + REST, STEP)
        faults = await one.faults()
    assert faults == [], "\n".join([*shown(made), *faults])


@pytest.fixture(params=DATABASES if MANY else DATABASES[:1])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.mark.parametrize("source", list(SOURCES))
@settings(
    max_examples=MANY or 2,
    deadline=None,
    derandomize=not MANY,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)
@given(data=st.data())
async def test_after_a_month_that_was_made_up_nothing_is_missing_stale_or_wrongly_deleted(
    source: str, url: str, data: st.DataObject
) -> None:
    made = events(source, data.draw(months(source), label="moves"))
    if made:
        await check(source, url, made, data.draw(st.none() | st.integers(0, 99), label="cut"))


def months(source: str) -> st.SearchStrategy[list[Move]]:
    move = st.builds(Move, st.sampled_from(WAITS), st.sampled_from(DEEDS[source]), st.integers(0, 5))
    return st.lists(move, min_size=4, max_size=24)
