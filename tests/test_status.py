"""What waits for which limit until when, and how long a pass takes: in the database, to programs and to people."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy import update

from syncd import tables
from syncd.credentials import generate_key
from syncd.daemon import open_parts, plan
from syncd.errors import AuthError, RateLimited
from syncd.http import Link
from syncd.policy import RunTimedOut
from syncd.report import slowed, status_report
from syncd.settings import Settings
from syncd.source import Page, Since, Source, Stream
from syncd.store import Store
from syncd.web.server import Web
from tests.conftest import Clock
from tests.scripted import Bench, message, pages, source
from tests.test_cli import Shell

DAWN, TURNS = datetime(2026, 1, 5, tzinfo=UTC), timedelta(minutes=15)
LATER = RateLimited("later", retry_after_s=3600.0, limit="conversations.history")


async def row_of(bench: Bench) -> dict[str, Any]:
    (row,) = (await status_report(bench.store, bench.engine.plans, Settings()))["connections"]
    return dict(row)


@pytest.fixture
def clock() -> Clock:
    """The report goes by the real time."""
    real = Clock()
    real.at = datetime.now(UTC)
    return real


async def test_a_deferred_connection_tells_the_limit_and_until_when(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(LATER)), clock)
    await bench.connect("acme", "globex")
    await bench.cycle()
    report = await status_report(store, bench.engine.plans, Settings())
    assert {(row["state"], row["limited_by"]) for row in report["connections"]} == {
        ("limited", "conversations.history")
    }
    assert report["sources"]["slack"]["waiting"] == {"conversations.history": 2}
    (words,) = slowed(report["connections"][0])
    assert words.endswith("UTC (in 60 min)")


async def test_a_limit_that_is_over_is_not_told(store: Store, clock: Clock) -> None:
    clock.advance(hours=-2)
    bench = Bench(store, source(pages(LATER)), clock)
    await bench.connect("acme")
    await bench.cycle()
    clock.advance(hours=2)
    row = await row_of(bench)
    assert (row["state"], row["limited_by"], row["limited_until"], slowed(row)) == ("new", None, None, [])


async def test_a_run_that_ends_well_waits_for_nothing_any_more(store: Store, clock: Clock) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        await link.on_wait("heavy", 40.0)
        seen.append(await row_of(bench))
        await link.on_wait("", 0.0)
        yield Page(records=[message("a")])

    seen: list[dict[str, Any]] = []
    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    await bench.cycle()
    assert [(row["state"], row["limited_by"]) for row in seen] == [("running", "heavy")]
    row = await row_of(bench)
    assert (row["state"], row["limited_by"], row["limited_until"]) == ("ok", None, None)


async def test_a_retry_is_no_limit(store: Store, clock: Clock) -> None:
    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        await link.on_wait("", 20.0)
        seen.append(await row_of(bench))
        yield Page()

    seen: list[dict[str, Any]] = []
    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    await bench.cycle()
    assert [(row["state"], row["limited_until"]) for row in seen] == [("running", None)]


async def test_who_lost_the_lease_tells_of_no_wait(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme")
    await store.connections.hold(1, "mine")
    await store.connections.waits(1, "another's", "heavy", clock() + timedelta(minutes=1))
    assert (await row_of(bench))["limited_by"] is None
    await store.connections.waits(1, "mine", "heavy", clock() + timedelta(minutes=1))
    assert (await row_of(bench))["limited_by"] == "heavy"


async def test_a_database_that_fails_does_not_end_the_run_that_waits(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise OSError("the database is away")

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        await link.on_wait("heavy", 40.0)
        yield Page(records=[message("a")])

    monkeypatch.setattr(store.connections, "waits", fails)
    bench = Bench(store, source(read), clock)
    await bench.connect("acme")
    assert (await bench.cycle())["successful_workspaces"] == 1


# ── passes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def in_parts(*runs: Page | Exception) -> tuple[Source, list[datetime | None]]:
    """A source of 40 channels whose runs each yield that page and go on, or yield one and end with an error."""
    left = list(runs)

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        began.append(since.pass_began)
        step = left.pop(0)
        yield step if isinstance(step, Page) else Page(parts=(10, 40))
        if isinstance(step, Exception):
            raise step

    began: list[datetime | None] = []
    return replace(source(read), streams=(Stream("messages", read, parts="channels"),)), began


async def test_a_pass_is_stored_told_and_ended(store: Store, clock: Clock) -> None:
    start = clock()
    scripted, began = in_parts(RunTimedOut("late"), Page(parts=(40, 40)), Page(parts=(40, 40)))
    bench = Bench(store, scripted, clock)
    await bench.connect("acme")
    await bench.cycle()
    row = await row_of(bench)
    known = {"state": "ok", "pass_s": 75 * 60, "pass_read": 10, "pass_parts": 40, "pass_of": "channels"}
    assert {name: row[name] for name in known} == known
    assert slowed(row) == ["a pass over its 40 channels takes about 75 min; 10 read in this one"]
    clock.advance(minutes=15)
    await bench.cycle()
    row = await row_of(bench)
    assert slowed(row) == ["a pass over its 40 channels takes about 30 min"]
    clock.advance(minutes=15)
    await bench.cycle()
    row = await row_of(bench)
    assert (row["pass_s"], row["pass_parts"], slowed(row)) == (None, None, [])
    assert began == [None, start, None]


async def test_a_run_by_hand_between_two_turns_counts_as_one_of_a_turn(store: Store, clock: Clock) -> None:
    """Else a pass would seem to take a third of the time."""
    scripted, _ = in_parts(RunTimedOut("late"))
    bench = Bench(store, scripted, clock, next_turn=lambda after: after + (TURNS - (after - DAWN) % TURNS))
    await bench.connect("acme")
    clock.at = DAWN + timedelta(days=3, minutes=10)
    await bench.cycle()
    assert (await bench.rows("connections"))[0].progress["takes_s"] == 75 * 60


async def test_other_channels_begin_another_pass(store: Store, clock: Clock) -> None:
    scripted, began = in_parts(RunTimedOut("late"), Page(parts=(3, 3)))
    bench = Bench(store, scripted, clock)
    await bench.connect("acme")
    await bench.cycle()
    await bench.connect("acme")  # new credentials: they may see other channels
    await bench.cycle()
    assert began == [None, None]


async def test_a_pass_whose_last_page_could_not_be_stored_is_not_over(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = clock()
    scripted, began = in_parts(RunTimedOut("late"), Page(records=[message("1")], parts=(40, 40)), Page(parts=(40, 40)))
    bench = Bench(store, scripted, clock)
    await bench.connect("acme")
    await bench.cycle()
    clock.advance(minutes=15)
    with monkeypatch.context() as outage:
        outage.setattr(store.pages, "checkpoint", away)
        await bench.cycle()
    clock.advance(minutes=15)
    await bench.cycle()
    assert began == [None, start, start]


async def away(*_: Any, **__: Any) -> None:
    raise OSError("no route to the database")


async def test_the_end_of_a_pass_counts_as_success_though_what_follows_was_deferred(store: Store, clock: Clock) -> None:
    scripted, _ = in_parts(RunTimedOut("late"), Page(parts=(40, 40)), RunTimedOut("late"))
    late = Stream("sweep", pages(RunTimedOut("no time left")))
    bench = Bench(store, replace(scripted, streams=(*scripted.streams, late)), clock)
    await bench.connect("acme")
    for expected in (None, clock() + timedelta(minutes=15), clock() + timedelta(minutes=15)):
        await bench.cycle()
        assert (await bench.rows("connections"))[0].last_success_at == expected
        clock.advance(minutes=15)


async def test_a_backfill_and_a_failure_leave_no_trace_of_a_pass(store: Store, clock: Clock) -> None:
    scripted, _ = in_parts(AuthError("revoked"))
    bench = Bench(store, scripted, clock)
    await bench.connect("acme")
    await bench.cycle()
    assert (await bench.rows("connections"))[0].progress is None


# ── for people ──────────────────────────────────────────────────────────────────────────────────────────────────────

SLOW = {"parts": 40, "read": 12, "since": "2026-01-05T12:00:00+00:00", "takes_s": 3600}


def test_status_and_doctor_say_what_is_slow_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, empty_sqlite: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNCD_SECRET_KEYS", generate_key())
    shutil.copy(empty_sqlite, "syncd.db")
    syncd = Shell(monkeypatch, capsys)
    syncd("connections", "add", "-s", "slack", "-w", "acme", "--credentials-file", "-", stdin='{"token": "xoxb-1"}')
    until = datetime.now(UTC) + timedelta(seconds=40)
    with sqlite3.connect("syncd.db") as db:
        row = (f"{until:%Y-%m-%d %H:%M:%S.%f}", "conversations.history", orjson.dumps(SLOW).decode())
        db.execute("UPDATE connections SET limited_until = ?, limited_by = ?, progress = ?", row)
    typed = syncd("status").out.replace("\n", " ")
    assert "waiting slack: 1 for conversations.history" in typed
    assert f"waits for conversations.history until {until:%H:%M:%S} UTC (in " in typed
    assert "a pass over its 40 channels takes about 60 min; 12 read in this one" in typed
    examined = syncd("doctor").out.replace("\n", " ")
    assert "well  slowed: 1 slack of acme: waits for conversations.history until" in examined
    assert "well  slowed: 1 slack of acme: a pass over its 40 channels" in examined
    assert "well  data: 1 of 1 active connections" in examined


async def test_the_status_page_says_the_same_and_escapes_it(tmp_path: Path, sqlite_url: str) -> None:
    settings = Settings(database={"url": sqlite_url}, secret_keys=generate_key(), http={"port": 0})
    async with open_parts(settings) as parts:
        await Bench(parts.store, parts.engine.plans["slack"].source).connect("acme")
        async with parts.store.database.write() as session:
            until = datetime.now(UTC) + timedelta(seconds=40)
            values = {"limited_until": until, "limited_by": "<b>heavy</b>", "progress": SLOW}
            await session.execute(update(tables.connections).values(values))
        web = Web(parts, AsyncIOScheduler())
        try:
            async with httpx.AsyncClient(base_url=await web.start(), trust_env=False) as client:
                page, told = (await client.get("/")).text, (await client.get("/api/v1/status")).json()
        finally:
            await web.stop()
    assert "waits for &lt;b&gt;heavy&lt;/b&gt; until" in page
    assert "<dd>1 for &lt;b&gt;heavy&lt;/b&gt;</dd>" in page
    assert "a pass over its 40 channels takes about 60 min; 12 read in this one" in page
    assert told["sources"]["slack"]["waiting"] == {"<b>heavy</b>": 1}


@pytest.mark.parametrize(
    ("cron", "now", "turns"),
    [
        ("0-59/15 * * * *", "2026-03-02T10:07", ["10:00", "09:45", "09:30"]),
        ("5-59/15 * * * *", "2026-03-02T10:05", ["10:05", "09:50", "09:35"]),
        ("0 3 * * *", "2026-03-02T10:07", ["03-02T03:00", "03-01T03:00", "02-28T03:00"]),
        ("0 9 * * mon-fri", "2026-03-02T10:07", ["03-02T09:00", "02-27T09:00", "02-26T09:00"]),
    ],
)
def test_so_many_turns_before_the_last_one(cron: str, now: str, turns: list[str]) -> None:
    one = plan(Settings(sources={"slack": {"cron": cron}}), "slack")  # type: ignore[arg-type]
    at = datetime.fromisoformat(now).replace(tzinfo=UTC)
    told = [one.turns_ago(at, back).isoformat()[: len("2026-03-02T10:05")] for back in range(3)]
    assert [moment[-len(turn) :] for moment, turn in zip(told, turns, strict=True)] == turns
