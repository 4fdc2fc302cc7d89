"""`syncd tail`: what is happening now, read from the database alone: for eyes on a terminal, for grep elsewhere."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import insert, update

from syncd import tables
from syncd.cli.tail import Follower, Seen, _follow, look, picture
from syncd.errors import AuthError
from syncd.http import Link
from syncd.settings import Settings
from syncd.source import Page, Since
from syncd.store import Database, Store
from syncd.store.health import Whose
from tests.conftest import Clock
from tests.process import environment
from tests.scripted import Bench, message, pages, source
from tests.terminal import Terminal
from tests.test_cli import Shell, migrated, syncd  # noqa: F401 - fixtures

ALL = Whose()


@pytest.fixture
def clock() -> Clock:
    """The command goes by the real time."""
    real = Clock()
    real.at = datetime.now(UTC)
    return real


def shown(seen: Seen, *, width: int = 140, rows: int = 20) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(picture(seen, rows, wide=width >= 110))
    return console.export_text()


def seen_while_it_reads(store: Store, whose: Whose = ALL) -> tuple[Any, list[Seen]]:
    """A stream that stores a page with a cursor, begins to wait for a limit, and looks."""
    looks: list[Seen] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=[message("a"), message("b")], cursor="1", notes=["stored at once"])
        await link.on_wait("heavy", 3 * 3600.0)
        looks.append(await look(store, Settings(), whose, 20))
        yield Page()

    return source(read), looks


async def test_a_run_under_way_is_shown_with_its_stream_counts_and_wait(store: Store, clock: Clock) -> None:
    scripted, looks = seen_while_it_reads(store)
    bench = Bench(store, scripted, clock)
    await bench.connect("acme")
    await bench.cycle()
    (row,) = looks[0].running
    known = {"source": "slack", "workspace_id": "acme", "reading": "messages", "records": 2, "added": 2}
    assert {name: row[name] for name in known} == known
    text = shown(looks[0])
    assert "1 under way, 1 of them waiting" in text
    line = next(line for line in text.splitlines() if line.startswith("slack"))
    assert line.split()[:7] == ["slack", "acme", "1", "messages", "2", "2", "0"]
    assert "heavy, 3 h" in line
    assert "slack in " in text.splitlines()[-1]


async def test_a_run_that_ended_is_shown_with_its_outcome_and_why(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(AuthError("token_revoked"))), clock)
    await bench.connect("acme")
    await bench.cycle()
    seen = await look(store, Settings(), ALL, 20)
    assert seen.running == []
    line = next(line for line in shown(seen).splitlines() if "acme" in line)
    assert "failed" in line
    assert "token_revoked" in line


async def test_a_run_of_a_dead_process_is_not_under_way(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme")
    await store.connections.hold(1, "mine")
    async with store.database.write() as session:
        values = {"cycle_id": 1, "connection_id": 1, "status": "running", "started_at": clock()}
        await session.execute(insert(tables.runs).values(**values))
    assert len((await look(store, Settings(), ALL, 20)).running) == 1
    clock.advance(minutes=6)
    assert (await look(store, Settings(), ALL, 20)).running == []


async def test_only_the_source_and_workspace_asked_for_are_shown(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme", "globex")
    await bench.cycle()
    assert {row["workspace_id"] for row in (await look(store, Settings(), ALL, 20)).ended} == {"acme", "globex"}
    mine = await look(store, Settings(), Whose("slack", "acme"), 20)
    assert [row["workspace_id"] for row in mine.ended] == ["acme"]
    assert list(mine.turns) == ["slack"]
    assert (await look(store, Settings(), Whose("gong", None), 20)).ended == []


async def test_a_narrow_terminal_keeps_the_names_whole(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(AuthError("a very long reason, " * 9))), clock)
    await bench.connect("northwind")
    await bench.cycle()
    lines = shown(await look(store, Settings(), ALL, 20), width=80).splitlines()
    line = next(line for line in lines if "northwind" in line)
    assert "failed" in line
    assert all(len(one) <= 80 for one in lines)
    assert sum("reason" in one for one in lines) <= 1  # cut, not wrapped


async def test_more_runs_than_lines_are_counted(store: Store, clock: Clock) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        await together.wait()
        looks.append(await look(store, Settings(), ALL, 20))
        await together.wait()
        yield Page()

    together, looks = asyncio.Barrier(6), list[Seen]()
    bench = Bench(store, source(read), clock, slots=6)
    await bench.connect(*"abcdef")
    await bench.cycle()
    lines = shown(looks[0], rows=4).splitlines()
    assert "6 under way" in lines[0]
    assert sum(line.startswith("slack") for line in lines) == 4
    assert "and 2 more under way" in lines


# ── elsewhere ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def followed(store: Store, lines: list[str]) -> Follower:
    follower = Follower(store, ALL, lines.append)
    await follower.look()
    return follower


async def test_a_run_that_came_and_went_between_two_looks_is_told_twice_and_once_each(
    store: Store, clock: Clock
) -> None:
    lines: list[str] = []
    bench = Bench(store, source(pages(Page(records=[message("a")]))), clock)
    await bench.connect("acme")
    await bench.cycle()
    follower = await followed(store, lines)
    assert lines == []  # what ended before is history
    await bench.cycle()
    await follower.look()
    await follower.look()
    at = f"{clock():%Y-%m-%dT%H:%M:%SZ}"
    whose = "run=2 source=slack workspace=acme connection=1 trigger=cli"
    did = "status=succeeded records=1 added=0 changed=0 deleted=0 calls=0 took_s=0.0"
    assert lines == [f"{at} started {whose}", f"{at} ended   {whose} {did}"]


async def test_a_run_under_way_is_told_at_once_and_its_end_when_it_comes(store: Store, clock: Clock) -> None:
    lines: list[str] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        followers.append(await followed(store, lines))
        yield Page()

    followers: list[Follower] = []
    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    await bench.cycle()
    assert [line.split()[1] for line in lines] == ["started"]
    await followers[0].look()
    assert [line.split()[1] for line in lines] == ["started", "ended"]


async def test_a_run_that_shows_later_than_its_number_is_not_missed(store: Store, clock: Clock) -> None:
    """PostgreSQL gives a number before the row is committed."""
    lines: list[str] = []
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme")

    async def begins(number: int) -> None:
        async with store.database.write() as session:
            values = {"id": number, "cycle_id": 1, "connection_id": 1, "status": "running", "started_at": clock()}
            await session.execute(insert(tables.runs).values(**values))

    await begins(1000)
    follower = await followed(store, lines)
    for number in (1002, 1001):
        await begins(number)
        await follower.look()
    assert [line.split()[2] for line in lines] == ["run=1002", "run=1001"]


async def test_a_vendors_words_forge_no_line(store: Store, clock: Clock) -> None:
    lines: list[str] = []
    bench = Bench(store, source(pages(AuthError('no\n2026-01-01T00:00:00Z ended run=9 "x"'))), clock)
    await bench.connect("acme")
    follower = await followed(store, lines)
    await bench.cycle()
    await follower.look()
    assert not any("\n" in line for line in lines)
    assert lines[-1].endswith('kind=auth error="no 2026-01-01T00:00:00Z ended run=9 \\"x\\""')


# ── as a command ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_on_a_terminal_it_renews_itself_until_ctrl_c(sqlite_url: str, tmp_path: Path) -> None:
    database = Database(sqlite_url)
    store = Store(database, lambda: datetime.now(UTC))
    bench = Bench(store, source(pages(Page())))
    await bench.connect("acme")
    env = environment(SYNCD_DATABASE__URL=sqlite_url)
    async with Terminal(env, "tail", term="xterm") as screen:
        await screen.until("0 under way")
        await screen.until("next turns:")
        await bench.cycle()
        await screen.until("acme")
        async with database.write() as session:
            until = datetime.now(UTC) + timedelta(minutes=5)
            await session.execute(update(tables.connections).values(leased_until=until))
            await session.execute(update(tables.runs).values(status="running"))
        await screen.until("1 under way")
        screen.interrupt()
        assert await screen.ends() == 130
    await database.close()


def test_once_prints_the_picture(migrated: Shell) -> None:  # noqa: F811
    typed = migrated("tail", "--once", "--source", "slack")
    assert typed.code == 0
    assert "0 under way" in typed.out
    assert typed.out.splitlines()[-1].startswith("next turns: slack in ")
    assert migrated("tail", "--source", "teams").code == 2


async def test_elsewhere_it_goes_on_when_the_database_was_away(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def newest() -> int:
        asked.append(1)
        if len(asked) < 4:
            raise OSError("the server is away")
        raise asyncio.CancelledError

    asked: list[int] = []
    monkeypatch.setattr("syncd.cli.tail._EVERY_S", 0.0)
    monkeypatch.setattr(store.health, "newest_run", newest)
    with pytest.raises(asyncio.CancelledError):
        await _follow(store, ALL)
    assert capsys.readouterr().err.count("the server is away") == 1
