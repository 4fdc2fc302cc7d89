"""Slack: what changes late arrives - replies, edits, deletions, channels - and nothing is taken for a deletion that is none."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from syncd import tables
from syncd.credentials import generate_key
from syncd.daemon import Parts, open_parts
from syncd.records import Message
from syncd.runs import Errand
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options, StandingClock, World
from syncd.settings import Settings
from syncd.source import Page, Since
from syncd.sources.slack import SOURCE
from syncd.store import Line
from tests.sources.test_contract import Cut

CHANNEL = "C000000000"


class Stage:
    """One connection of acme, with syncd's clock and Slack's the same and standing still."""

    def __init__(self, box: Sandbox, parts: Parts) -> None:
        self.box, self.parts = box, parts

    def act(self, action: str, **body: Any) -> Any:
        """Each thing a second after the one before."""
        self.box.world.clock.advance(timedelta(seconds=1))
        return self.box.slack.act("acme", action, body)

    def post(self, text: str = "hello", **body: Any) -> str:
        return str(self.act("post", channel=CHANNEL, text=text, **body)["ts"])

    def reply(self, ts: str, text: str = "yes", **body: Any) -> str:
        return str(self.act("reply", channel=CHANNEL, ts=ts, text=text, **body)["ts"])

    def delete(self, ts: str) -> None:
        self.act("delete", channel=CHANNEL, ts=ts)

    async def after(self, *, sweep: bool = False, **later: float) -> dict[str, Any]:
        """A cycle, so much later."""
        self.box.world.clock.advance(timedelta(**later) or timedelta(seconds=1))
        return await self.parts.engine.cycle("slack", trigger="cli", sweep=sweep)

    async def row(self, ts: str) -> Any:
        known = tables.messages
        query = select(known).where(known.c.external_id == f"{CHANNEL}:{ts}")
        async with self.parts.store.database.read() as session:
            return (await session.execute(query)).one_or_none()

    async def is_live(self, ts: str) -> bool:
        row = await self.row(ts)
        return row is not None and row.deleted_at is None

    async def rows(self, table: str) -> list[Any]:
        async with self.parts.store.database.read() as session:
            return list(await session.execute(select(tables.metadata.tables[table])))

    def cut(self, pages: int | None) -> None:
        """From now on each run is cut after so many pages of messages; None: no more."""
        cut = Cut(pages) if pages is not None else lambda read: read
        streams = [
            replace(one, read=cut(one.read)) if one.name in {"messages", "threads", "sweep"} else one
            for one in SOURCE.streams
        ]
        plans = self.parts.engine.plans
        source = replace(SOURCE, streams=tuple(streams))
        self.parts.engine.plans = {**plans, "slack": replace(plans["slack"], source=source)}


MakeStage = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def stage(tmp_path: Path, empty_sqlite: Path) -> AsyncIterator[MakeStage]:
    async with AsyncExitStack() as stack:

        async def make(channels: Any = (CHANNEL,), page_size: int = 0, **overrides: Any) -> Stage:
            options = Options(workspaces=1, days=1, channels=1, messages_per_day=0, page_size=page_size, limits=False)
            box = await stack.enter_async_context(Sandbox(options, world=World(options, StandingClock())))
            shutil.copy(empty_sqlite, tmp_path / "late.db")
            mine = {"base_url": f"{box.base}/slack/api/", "patience": "0s"}
            mine |= {"limits": dict.fromkeys(type(Settings().sources.slack).vendor_limits, "1000000/1s")}
            settings = Settings(
                database={"url": f"sqlite+aiosqlite:///{tmp_path}/late.db"},
                secret_keys=generate_key(),
                sources={"slack": mine | overrides},
            )
            parts = await stack.enter_async_context(open_parts(settings, now=box.world.clock.now))
            line = next(iter(box.slack.connections()))
            chosen = {"channels": channels if channels == "*" else list(channels)}
            known = Line(workspace_id="acme", source="slack", credentials=line["credentials"], settings=chosen)
            await parts.store.connections.put([known], parts.vault.seal)
            return Stage(box, parts)

        yield make


# ---- deletions


async def test_a_message_deleted_within_the_window_is_gone_in_the_next_cycle_and_its_content_is_kept(
    stage: MakeStage,
) -> None:
    s = await stage()
    ts = s.post("regrettable")
    await s.after()
    s.delete(ts)
    assert (await s.after(minutes=15))["deleted"] == 1
    row = await s.row(ts)
    assert (row.text, row.deleted_at is not None) == ("regrettable", True)


async def test_a_message_deleted_beyond_the_cycles_window_is_gone_with_the_sweep(stage: MakeStage) -> None:
    s = await stage()
    ts = s.post()
    await s.after()
    await s.after(days=3)
    s.delete(ts)
    await s.after(minutes=15)
    assert await s.is_live(ts)
    await s.after(sweep=True)
    assert not await s.is_live(ts)


async def test_a_run_that_is_cut_in_its_window_infers_no_deletion_and_the_next_one_does(stage: MakeStage) -> None:
    s = await stage(page_size=2)
    first, *others = [s.post(f"{n}") for n in range(6)]
    await s.after()
    s.delete(others[-1])
    s.act("fail", method="conversations.history", error="internal_error", skip=1)
    status = await s.after(minutes=15)
    assert (status["failed_workspaces"], status["deleted"]) == (1, 0)
    assert (await s.after(minutes=15))["deleted"] == 1
    assert await s.is_live(first)


async def test_a_window_that_goes_on_in_a_later_run_remembers_what_was_missing_in_its_first_part(
    stage: MakeStage,
) -> None:
    s = await stage(page_size=2)
    posted = [s.post(f"{n}") for n in range(8)]
    await s.after()
    await s.after(days=3)
    s.delete(posted[-1])
    s.cut(3)  # one of the cycle's window, then pages of the sweep
    assert (await s.after(sweep=True))["failed_workspaces"] == 1
    assert await s.is_live(posted[-1])
    s.cut(None)
    await s.after(sweep=True)
    assert not await s.is_live(posted[-1])


async def test_an_access_error_is_no_deletion(stage: MakeStage) -> None:
    s = await stage()
    ts = s.post()
    await s.after()
    s.act("kick", channel=CHANNEL)
    status = await s.after(minutes=15, sweep=True)
    assert (status["deleted"], await s.is_live(ts)) == (0, True)


async def test_what_a_free_plan_hides_is_no_deletion(stage: MakeStage) -> None:
    s = await stage()
    old = s.post("old")
    thread = s.reply(old)
    await s.after()
    s.box.world.clock.advance(timedelta(days=2))
    s.post("new")
    s.act("limit_history", days=1)
    assert (await s.after(sweep=True))["deleted"] == 0
    assert await s.is_live(old)
    await s.after(days=6)  # the thread's own time has come as well
    assert (await s.is_live(old), await s.is_live(thread)) == (True, True)


async def test_pages_out_of_order_are_no_proof_of_a_deletion(stage: MakeStage) -> None:
    s = await stage()
    posted = [s.post(f"{n}") for n in range(6)]
    await s.after()
    original = s.box.slack._pages.cut

    def cut(method: str, args: Any, rows: Any, *more: Any) -> Any:
        if method != "conversations.history":
            return original(method, args, rows, *more)
        rows = sorted(rows, key=lambda row: row["ts"])
        at = int(args.get("cursor") or 0)
        return rows[at : at + 2], {"response_metadata": {"next_cursor": str(at + 2) if at + 2 < len(rows) else ""}}

    s.box.slack._pages.cut = cut  # type: ignore[method-assign]
    assert (await s.after(minutes=15))["deleted"] == 0
    assert all([await s.is_live(ts) for ts in posted])


async def test_a_deleted_parent_stays_until_its_last_reply_is_deleted_and_then_all_is_gone(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post("question")
    one, two = s.reply(parent, "a"), s.reply(parent, "b")
    await s.after()
    s.delete(parent)
    await s.after(minutes=15)
    assert [await s.is_live(ts) for ts in (parent, one, two)] == [False, True, True]
    s.delete(one)
    await s.after(minutes=15)
    assert [await s.is_live(ts) for ts in (parent, one, two)] == [False, False, True]
    s.delete(two)
    await s.after(minutes=15, sweep=True)
    assert [await s.is_live(ts) for ts in (parent, one, two)] == [False, False, False]


async def test_a_deleted_reply_is_gone_with_the_next_cycle(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post()
    first, second = s.reply(parent), s.reply(parent)
    await s.after()
    s.delete(second)
    await s.after(minutes=15)
    assert (await s.is_live(first), await s.is_live(second)) == (True, False)


async def test_a_thread_that_gave_fewer_replies_than_slack_counts_loses_none(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post()
    first, second = s.reply(parent), s.reply(parent)
    await s.after()
    room = s.box.slack._installs["acme"].office.rooms[CHANNEL]
    room.threads[parent].remove(second)  # the counters say two, the listing holds one
    await s.after(minutes=15, sweep=True)
    assert (await s.is_live(first), await s.is_live(second)) == (True, True)


async def test_a_broadcast_that_was_taken_back_from_the_channel_stays_as_a_reply(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post()
    reply = s.reply(parent, broadcast=True)
    await s.after()
    del s.box.slack._installs["acme"].office.rooms[CHANNEL].messages[reply]["subtype"]
    await s.after(minutes=15)
    row = await s.row(reply)
    assert (row.deleted_at, row.raw.get("subtype")) == (None, None)


async def test_a_broadcast_reply_is_stored_once_and_goes_when_it_is_deleted(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post()
    reply = s.reply(parent, broadcast=True)
    assert (await s.after())["total_messages"] == len(await s.rows("messages"))
    s.delete(reply)
    await s.after(minutes=15)
    assert not await s.is_live(reply)


# ---- threads


async def test_an_idle_channel_costs_one_call_though_it_has_threads(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post()
    s.reply(parent)
    await s.after()
    s.box.world.counts.clear()
    await s.after(minutes=15)
    assert dict(s.box.world.counts) == {("slack", "conversations.history"): 1}


async def test_a_reply_to_a_three_week_old_thread_arrives_within_a_day(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post()
    s.reply(parent)
    await s.after()
    for _ in range(21):
        await s.after(days=1)
    late = s.reply(parent, "three weeks later")
    await s.after(hours=24)
    assert await s.is_live(late)


async def test_an_edit_and_a_deletion_inside_a_watched_thread_arrive_too(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post("old words")
    one, two = s.reply(parent, "first"), s.reply(parent, "second")
    await s.after()
    await s.after(days=10)
    s.act("edit", channel=CHANNEL, ts=parent, text="new words")
    s.act("edit", channel=CHANNEL, ts=one, text="better")
    s.delete(two)
    await s.after(days=1)
    assert ((await s.row(parent)).text, (await s.row(one)).text) == ("new words", "better")
    assert not await s.is_live(two)


async def test_a_quiet_thread_is_asked_ever_more_rarely_and_not_at_all_after_its_time(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post()
    s.box.world.clock.advance(timedelta(days=8))
    s.reply(parent)
    await s.after(sweep=True)  # beyond the sweep: only a broadcast or its own time shows it
    s.reply(parent, broadcast=True)
    await s.after(minutes=15)

    async def asked_in_a_day() -> int:
        s.box.world.counts.clear()
        for _ in range(8):
            await s.after(hours=3)
        return s.box.world.counts["slack", "conversations.replies"]

    first = await asked_in_a_day()
    await s.after(days=12)
    later = await asked_in_a_day()
    assert first > later == 1
    await s.after(days=17)
    assert await asked_in_a_day() == 0
    assert await s.rows("watches") == []


async def test_how_long_a_thread_is_watched_is_a_setting(stage: MakeStage) -> None:
    s = await stage(thread_watch="9d")
    parent = s.post()
    s.reply(parent)
    await s.after()
    await s.after(days=10)
    s.reply(parent)
    await s.after(days=1)
    assert await s.rows("watches") == []


async def test_a_watched_thread_that_is_gone_altogether_is_deleted(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post()
    reply = s.reply(parent)
    await s.after()
    await s.after(days=10)
    s.delete(parent)
    s.delete(reply)
    await s.after(days=1)
    assert [await s.is_live(ts) for ts in (parent, reply)] == [False, False]


async def test_a_broadcast_leads_to_the_other_new_replies_of_an_older_thread(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post()
    s.reply(parent)
    await s.after()
    await s.after(days=2)
    quiet, loud = s.reply(parent, "only here"), s.reply(parent, "to all", broadcast=True)
    await s.after(minutes=15)
    assert (await s.is_live(quiet), await s.is_live(loud)) == (True, True)
    s.box.world.counts.clear()
    await s.after(minutes=15)
    assert s.box.world.counts["slack", "conversations.replies"] == 0


async def test_a_thread_of_a_channel_that_is_not_visible_now_stays_watched(stage: MakeStage) -> None:
    s = await stage(channels="*")
    parent = s.post()
    s.reply(parent)
    await s.after()
    await s.after(hours=1)
    s.act("kick", channel=CHANNEL)
    await s.after(days=10)
    s.act("invite", channel=CHANNEL)
    late = s.reply(parent)
    await s.after(days=1)
    await s.after(days=1)
    assert await s.is_live(late)


# ---- sweeps and windows that take several runs


async def test_a_sweep_comes_by_itself_after_its_time_and_brings_late_changes(stage: MakeStage) -> None:
    s = await stage()
    ts = s.post("before")
    now = s.box.world.clock.now
    await s.parts.engine.cycle("slack", trigger="schedule", turn=now())
    s.box.world.clock.advance(timedelta(days=2))
    s.act("edit", channel=CHANNEL, ts=ts, text="after")
    await s.parts.engine.cycle("slack", trigger="schedule", turn=now())
    assert (await s.row(ts)).text == "after"


async def test_a_sweep_that_is_cut_goes_on_with_what_it_has_not_swept(stage: MakeStage) -> None:
    s = await stage(page_size=1)
    for n in range(10):
        s.reply(s.post(f"{n}"))
    await s.after()
    s.box.world.clock.advance(timedelta(days=2))
    now = s.box.world.clock.now
    asked: list[int] = []
    for _ in range(20):
        s.box.world.counts.clear()
        s.cut(8)
        status = await s.parts.engine.cycle("slack", trigger="schedule", turn=now())
        asked.append(s.box.world.counts["slack", "conversations.replies"])
        s.box.world.clock.advance(timedelta(minutes=30))
        async with s.parts.store.database.write() as session:
            await session.execute(tables.connections.update().values(next_sync_at=now()))
        if status["successful_workspaces"]:
            break
    else:
        raise AssertionError(f"never swept: {asked}")
    assert len(asked) > 1


async def test_an_outage_too_long_for_one_run_is_read_over_several(stage: MakeStage) -> None:
    s = await stage(page_size=1)
    await s.after()
    posted = []
    for n in range(12):
        s.box.world.clock.advance(timedelta(days=1))
        posted.append(s.post(f"day {n}"))
    runs = 0
    while True:
        s.cut(3)
        runs += 1
        if not (await s.after(minutes=15))["failed_workspaces"]:
            break
        assert runs < 20, "no progress from run to run"
    assert runs > 1
    assert all([await s.is_live(ts) for ts in posted])


async def test_a_first_run_that_is_cut_is_taken_up_where_it_began(stage: MakeStage) -> None:
    s = await stage(page_size=1)
    posted = [s.post(f"{n}") for n in range(3)]
    s.cut(1)  # the beginning of the channel is noted, nothing of it is read
    assert (await s.after())["failed_workspaces"] == 1
    s.cut(None)
    await s.after(days=5)
    assert all([await s.is_live(ts) for ts in posted])


async def test_page_tokens_that_are_always_stale_do_not_stop_a_history(stage: MakeStage) -> None:
    s = await stage()
    await s.after()
    posted = [s.post(f"{n}") for n in range(9)]
    s.box.world.options = replace(s.box.world.options, page_size=3, switches={"slack.cursor_life_s": "0"})
    assert (await s.after())["failed_workspaces"] == 0
    assert all([await s.is_live(ts) for ts in posted])


# ---- channels and people


def notes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    read = capsys.readouterr()
    return [line for line in (read.out + read.err).splitlines() if "source.noted" in line]


@pytest.mark.parametrize(
    ("action", "body", "words"),
    [
        ("rename", {"channel": CHANNEL, "name": "lobby"}, "is now called #lobby"),
        ("archive", {"channel": CHANNEL}, "was archived"),
        ("kick", {"channel": CHANNEL}, "no longer visible"),
        ("create", {"name": "launch"}, "read from now on"),
    ],
)
async def test_what_becomes_of_a_channel_is_told_once_and_takes_no_data_away(
    stage: MakeStage, capsys: pytest.CaptureFixture[str], action: str, body: Any, words: str
) -> None:
    s = await stage(channels="*")
    ts = s.post()
    await s.after()
    s.act(action, **body)
    notes(capsys)
    await s.after(hours=2)
    assert len([line for line in notes(capsys) if words in line]) == 1
    await s.after(hours=2)
    await s.after(hours=2, sweep=True)
    assert notes(capsys) == []
    assert await s.is_live(ts)


async def test_a_selected_channel_that_is_not_visible_is_told_once(
    stage: MakeStage, capsys: pytest.CaptureFixture[str]
) -> None:
    s = await stage(channels=(CHANNEL, "C0NOWHERE0"))
    await s.after()
    assert len([line for line in notes(capsys) if "C0NOWHERE0" in line]) == 1
    await s.after(hours=2)
    assert notes(capsys) == []


async def test_names_of_people_and_channels_stay_current(stage: MakeStage) -> None:
    s = await stage(channels="*")
    await s.after()
    s.act("rename", channel=CHANNEL, name="lobby")
    s.act("person", user=0, name="Ana Maria")
    await s.after(hours=2)
    assert "lobby" in {row.name for row in await s.rows("conversations")}
    assert "Ana Maria" in {row.name for row in await s.rows("people")}


async def test_a_new_channel_is_read_within_the_hour(stage: MakeStage) -> None:
    s = await stage(channels="*")
    await s.after()
    made = s.act("create", name="launch")
    ts = s.act("post", channel=made["channel"], text="first")["ts"]
    await s.after(minutes=65)
    assert f"{made['channel']}:{ts}" in {row.external_id for row in await s.rows("messages")}


# ---- backfill and audit


async def run_dry(s: Stage, **how: Any) -> list[Page]:
    """The pages of the audit as `syncd verify` would see them."""
    parts = s.parts
    (connection,) = await parts.store.connections.all()
    plan = parts.engine.plans["slack"]
    credentials = parts.vault.open(connection.id, connection.sealed)
    now = s.box.world.clock.now()
    since = Since(
        now=now,
        lookback=timedelta(days=7),
        cycle_lookback=timedelta(days=1),
        sweep_lookback=timedelta(days=7),
        sweep=True,
        sweep_due_at=now,
        held=parts.store.looks.of(connection.id),
        **how,
    )
    found = []
    async with SOURCE.connect(parts.engine.runs.link(plan, connection, credentials)) as api:
        for one in SOURCE.audit:
            cursors = await parts.store.looks.cursors(connection.id, one.name)
            found += [page async for page in one.read(api, replace(since, cursors=cursors))]
    return found


async def test_an_audit_right_after_a_cycle_finds_nothing_and_later_what_differs(stage: MakeStage) -> None:
    s = await stage()
    kept, edited, deleted, parent = (s.post(f"{n}") for n in range(4))
    s.reply(parent)
    await s.after(sweep=True)
    held = s.parts.store.looks.of(1)

    async def differing() -> tuple[list[str], list[str], list[str]]:
        pages = await run_dry(s)
        read = [one for page in pages for one in page.records if isinstance(one, Message)]
        missing, stale = await held.compared(Message, read)
        extra = await held.stored(Message, [one.external_id for page in pages for one in page.deletions])
        return missing, stale, list(extra)

    assert await differing() == ([], [], [])
    s.act("edit", channel=CHANNEL, ts=edited, text="other")
    s.delete(deleted)
    s.reply(parent)
    missing, stale, extra = await differing()
    assert f"{CHANNEL}:{edited}" in stale
    assert extra == [f"{CHANNEL}:{deleted}"]
    assert missing == [], "a reply after the last cycle was not to be read yet"
    assert f"{CHANNEL}:{kept}" not in stale


async def test_an_audit_reads_a_thread_whose_replies_are_not_all_stored(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post()
    lost = s.reply(parent)
    s.reply(parent)
    await s.after(sweep=True)
    async with s.parts.store.database.write() as session:
        await session.execute(tables.messages.delete().where(tables.messages.c.external_id == f"{CHANNEL}:{lost}"))
    pages = await run_dry(s, sample=0)
    read = [one for page in pages for one in page.records if isinstance(one, Message)]
    missing, _ = await s.parts.store.looks.of(1).compared(Message, read)
    assert missing == [f"{CHANNEL}:{lost}"]


async def test_a_backfill_reads_back_to_its_date_and_goes_on_where_it_was_cut(stage: MakeStage) -> None:
    s = await stage(page_size=2)
    began = s.box.world.clock.now() - timedelta(hours=1)
    parent = s.post("old")
    posted = [parent, s.reply(parent), *(s.post(f"{n}") for n in range(9))]
    s.box.world.clock.advance(timedelta(days=40))
    await s.after()
    assert not await s.is_live(parent)
    for n in range(20):
        cycle = await s.parts.store.cycles.begin("slack", "backfill", None)
        plan = s.parts.engine.plans["slack"]
        streams = (SOURCE.backfill[0], replace(SOURCE.backfill[1], read=Cut(3)(SOURCE.backfill[1].read)))
        claimed = await s.parts.store.connections.claim("slack", f"l{n}", cycle, due=None)
        assert claimed is not None
        errand = Errand(streams=streams, back_to=began)
        _, error = await s.parts.engine.runs.sync(plan, *claimed, f"l{n}", errand)
        if error is None:
            break
    else:
        raise AssertionError("no progress from stint to stint")
    assert n > 1
    assert all([await s.is_live(ts) for ts in posted])
    assert not [row for row in await s.rows("cursors") if row.stream == "backfill"], "a later request starts anew"


async def test_an_estimate_tells_the_calls_of_a_backfill_by_limit(stage: MakeStage) -> None:
    s = await stage()
    parent = s.post()
    s.reply(parent)
    s.box.world.clock.advance(timedelta(days=3))
    (connection,) = await s.parts.store.connections.all()
    credentials = s.parts.vault.open(connection.id, connection.sealed)
    now, day = s.box.world.clock.now(), timedelta(days=1)
    held = s.parts.store.looks.of(connection.id)
    since = Since(now=now, lookback=day, cycle_lookback=day, sweep_lookback=day, held=held, back_to=now - 10 * day)
    async with SOURCE.connect(s.parts.engine.runs.link(s.parts.engine.plans["slack"], connection, credentials)) as api:
        assert SOURCE.estimate is not None
        estimate = await SOURCE.estimate(api, since)
    assert estimate.draws["conversations.history"] == 1
    assert estimate.draws["conversations.replies"] >= 1
    assert estimate.calls == sum(estimate.draws.values())
    assert "1 channels" in estimate.items
