"""The contract of a source, for every source: cut after any page and resume, nothing is lost; twice, nothing changes.

A source joins by being in the registry; its emulator gives the data. Small pages make many places to cut.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from syncd import tables
from syncd.credentials import generate_key
from syncd.daemon import Parts, open_parts
from syncd.errors import Transient
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Clock, Options, StandingClock, World
from syncd.settings import Settings
from syncd.source import Page, Since, Source, Stream
from syncd.sources import SOURCES
from syncd.store import Line

SMALL = Options(
    workspaces=2,
    days=5,
    channels=2,
    messages_per_day=4,
    calls_per_day=2,
    meetings_per_day=2,
    mails_per_day=3,
    page_size=2,
    limits=False,
)
RECORDS = ("people", "conversations", "messages", "meetings", "transcripts")
WINDOWED = {"slack", "gong", "fathom"}  # sources whose cursor is a time up to which all is read
OUTAGE = timedelta(days=5)
CUTS = 5  # places to cut at most, spread over all pages; tests/months cuts at random ones

Read = Callable[[Any, Since], AsyncIterator[Page]]
Wrap = Callable[[Read], Read]


def wrapped(source: Source, wrap: Wrap) -> Source:
    return dataclasses.replace(source, streams=tuple(Stream(one.name, wrap(one.read)) for one in source.streams))


class Cut:
    """Passes so many pages of a run, then breaks it off."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, read: Read) -> Read:
        async def cut(api: Any, since: Since) -> AsyncIterator[Page]:
            async for page in read(api, since):
                if self.left == 0:
                    raise Transient("cut by the test")
                self.left -= 1
                yield page

        return cut


def early_cursor(read: Read) -> Read:
    """The mistake that the contract must catch: the cursor on the first page though the rest is not covered yet."""

    async def hasty(api: Any, since: Since) -> AsyncIterator[Page]:
        pages = [page async for page in read(api, since)]
        partitions = {page.partition: page.cursor for page in pages if page.cursor is not None}
        for partition, cursor in partitions.items():
            yield Page(partition=partition, cursor=cursor)
        for page in pages:
            yield page

    return hasty


def hollow(read: Read) -> Read:
    """Keeps a run's cursors and drops what it read: the state of a connection that was last read back then."""

    async def emptied(api: Any, since: Since) -> AsyncIterator[Page]:
        async for page in read(api, since):
            yield Page(partition=page.partition, cursor=page.cursor)

    return emptied


class Stage:
    """A sandbox that stands still, and fresh databases for one connection to it."""

    def __init__(self, box: Sandbox, clock: Clock, source: Source, folder: Path, empty: Path) -> None:
        self.box, self.clock, self.source, self.folder, self.empty = box, clock, source, folder, empty
        self.made = 0

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Parts]:
        self.made += 1
        file = self.folder / f"{self.made}.db"
        shutil.copy(self.empty, file)
        prefix = f"SYNCD_SOURCES__{self.source.name.upper()}__"
        mine = {
            key.removeprefix(prefix).lower(): value
            for key, value in self.box.environment().items()
            if key.startswith(prefix) and "__OAUTH__" not in key
        }
        settings = Settings(
            database={"url": f"sqlite+aiosqlite:///{file}"},
            secret_keys=generate_key(),
            sources={self.source.name: mine | {"patience": "0s", "limits": unlimited(self.source.name)}},
        )
        async with open_parts(settings, now=self.clock.now) as parts:
            line = next(one for one in self.box.connections() if one["source"] == self.source.name)
            await parts.store.connections.put(
                [Line(workspace_id="w", source=self.source.name, credentials=line["credentials"])], parts.vault.seal
            )
            yield parts
        file.unlink()

    async def run(self, parts: Parts, source: Source) -> dict[str, Any]:
        plans = parts.engine.plans
        parts.engine.plans = {**plans, source.name: dataclasses.replace(plans[source.name], source=source)}
        return await parts.engine.cycle(source.name, trigger="cli")

    async def held(self, parts: Parts) -> dict[str, list[tuple[Any, ...]]]:
        """All that is stored but for the times of storing; of the backlog what is waited for."""
        found: dict[str, list[tuple[Any, ...]]] = {}
        async with parts.store.database.read() as session:
            for name in RECORDS:
                table = tables.metadata.tables[name]
                # of raw its digest: parts of it the vendor may make anew at each call
                apart = {"connection_id", "raw", "created_at", "updated_at", "deleted_at"}
                columns = [column for column in table.c if column.name not in apart]
                query = select(*columns, table.c.deleted_at.is_(None)).order_by(table.c.external_id)
                found[name] = [tuple(map(repr, row)) for row in await session.execute(query)]
            waiting = tables.backlog
            query = select(waiting.c.stream, waiting.c.external_id).order_by(waiting.c.stream, waiting.c.external_id)
            found["backlog"] = [tuple(row) for row in await session.execute(query)]
        return found


@pytest.fixture(params=list(SOURCES))
async def stage(request: pytest.FixtureRequest, tmp_path: Path, sqlite_url: str) -> AsyncIterator[Stage]:
    clock = StandingClock()
    async with Sandbox(SMALL, world=World(SMALL, clock)) as box:
        yield Stage(box, clock, SOURCES[request.param], tmp_path, Path(sqlite_url.removeprefix("sqlite+aiosqlite:///")))


def unlimited(source: str) -> dict[str, str]:
    """Our own limits out of the way: they are tested elsewhere."""
    return dict.fromkeys(type(getattr(Settings().sources, source)).vendor_limits, "1000000/1s")


def places(pages: int) -> Iterator[int]:
    step = -(-pages // CUTS)
    yield from range(0, pages, step)


async def check_cuts(stage: Stage, source: Source, *, outage: bool) -> None:
    """Cut at each place, resume, compare with the run that was never cut.

    ``outage``: the connection was last read days ago, so that what is older than a cycle's window lies behind the
    cursor alone.
    """

    async def begin(parts: Parts) -> None:
        if outage:
            stage.clock.advance(-OUTAGE)
            await stage.run(parts, wrapped(stage.source, hollow))
            stage.clock.advance(OUTAGE)

    counting = Cut(-1)
    async with stage.database() as parts:
        await begin(parts)
        assert (await stage.run(parts, wrapped(source, counting)))["successful_workspaces"] == 1
        whole = await stage.held(parts)
    pages = -1 - counting.left
    assert pages > 3, "too few pages to cut between"
    for place in places(pages):
        async with stage.database() as parts:
            await begin(parts)
            assert (await stage.run(parts, wrapped(source, Cut(place))))["failed_workspaces"] == 1
            assert (await stage.run(parts, source))["successful_workspaces"] == 1
            held = await stage.held(parts)
        assert held == whole, f"cut after page {place} of {pages}"


async def test_cut_after_any_page_of_the_first_run_and_resumed_nothing_is_lost(stage: Stage) -> None:
    await check_cuts(stage, stage.source, outage=False)


async def test_cut_after_any_page_of_the_run_after_an_outage_and_resumed_nothing_is_lost(stage: Stage) -> None:
    if stage.source.name not in WINDOWED:
        pytest.skip("its cursor is no time: a run after an outage is a run")
    await check_cuts(stage, stage.source, outage=True)


async def test_a_cursor_handed_out_early_is_caught(stage: Stage) -> None:
    """The negative control: without it a suite that checks nothing would pass as well."""
    with pytest.raises(AssertionError, match="cut after page"):
        await check_cuts(stage, wrapped(stage.source, early_cursor), outage=stage.source.name in WINDOWED)


async def test_a_second_run_changes_nothing(stage: Stage) -> None:
    async with stage.database() as parts:
        first = await stage.run(parts, stage.source)
        held = await stage.held(parts)
        second = await stage.run(parts, stage.source)
        assert first["added"] > 0
        assert (second["added"], second["changed"], second["deleted"]) == (0, 0, 0)
        assert await stage.held(parts) == held
