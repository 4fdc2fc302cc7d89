"""The scripted month: a connection that reads all along holds, row by row, what the sandbox's own record says.

In CI without cuts on SQLite and with cuts on PostgreSQL, there once by way of the queue as well; with ``SYNCD_MONTHS`` set,
both on both, in smaller steps. ``SYNCD_KIND=pgqueuer pytest tests/months`` reads all months by way of the queue, on PostgreSQL.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from syncd.sandbox.month import Month
from syncd.sandbox.month_script import DAYS, script
from syncd.sources import SOURCES
from tests.months.reading import MANY, REST, SMALL, Cuts, Reading, reading
from tests.queueing import DATABASES

AT_MOST, AT_LEAST = (timedelta(hours=6), timedelta()) if MANY else (timedelta(hours=24), timedelta(hours=8))
CUT_AT_MOST = timedelta(hours=6 if MANY else 12)  # what a cut run left comes soon enough only with the next ones


async def the_month(one: Reading, at_most: timedelta, at_least: timedelta) -> list[str]:
    month = Month(one.box, one.workspace, script(one.source))
    await one.live_through(month, timedelta(days=DAYS), at_most, at_least)
    one.rest()
    await one.live_through(month, timedelta(days=DAYS) + REST, timedelta(hours=12))
    assert month.next_at is None, "the whole month was acted out"
    return await one.faults()


@pytest.mark.parametrize("source", list(SOURCES))
@pytest.mark.parametrize("database_url", DATABASES if MANY else DATABASES[:1], indirect=True)
async def test_after_the_scripted_month_nothing_is_missing_stale_or_wrongly_deleted(
    source: str, database_url: str
) -> None:
    async with reading(source, database_url) as one:
        faults = await the_month(one, AT_MOST, AT_LEAST)
        assert faults == [], "\n".join(faults)


@pytest.mark.parametrize("source", list(SOURCES))
@pytest.mark.parametrize("database_url", DATABASES if MANY else DATABASES[-1:], indirect=True)
async def test_nor_when_runs_are_cut_at_random_pages(source: str, database_url: str) -> None:
    cuts = Cuts(seed=3)
    async with reading(source, database_url, dataclasses.replace(SMALL, page_size=3), cuts=cuts) as one:
        faults = await the_month(one, CUT_AT_MOST, timedelta())
        assert cuts.made > 9, "runs were cut"
        assert faults == [], "\n".join(faults)


@pytest.mark.parametrize("source", list(SOURCES) if MANY else ["gmail"])
async def test_nor_when_a_worker_reads_what_a_daemon_puts_into_the_queue(source: str, postgres_url: str) -> None:
    async with reading(source, postgres_url, kind="pgqueuer") as one:
        faults = await the_month(one, AT_MOST, AT_LEAST)
        assert faults == [], "\n".join(faults)
