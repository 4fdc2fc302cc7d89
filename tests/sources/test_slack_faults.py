"""Slack: what fails in passing by itself waits, and the run goes on; what is not said is no proof of anything."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from sqlalchemy import update

from syncd import tables
from syncd.live import Errand
from syncd.sources.slack import SOURCE
from tests.sources.test_slack import live
from tests.sources.test_slack_refusals import scripted, serving

DOWN = {"ok": False, "error": "internal_error"}
REVOKED = {"ok": False, "error": "token_revoked"}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def stamp(ago: float) -> str:
    return f"{time.time() - ago:.0f}.000000"


def threaded(ts: str, last: str, replies: int = 1) -> dict[str, Any]:
    return {"ts": ts, "thread_ts": ts, "reply_count": replies, "latest_reply": last}


class Vendor:
    """Canned answers. ``history``, ``replies``: by channel, by ts; ``asked``: what was asked for, of these two;
    ``spans``: the windows, (channel, oldest, latest).
    """

    def __init__(self, channels: int) -> None:
        self.channels = [f"C{n}" for n in range(1, channels + 1)]
        self.history: dict[str, Any] = {one: {"messages": [{"ts": stamp(60), "text": "hi"}]} for one in self.channels}
        self.replies: dict[str, Any] = {}
        self.listed: Any = {"channels": [{"id": one} for one in self.channels]}
        self.asked: Counter[str] = Counter()
        self.spans: list[tuple[str, str, str]] = []

    async def serve(self, request: web.Request) -> web.Response:
        method, asked = request.match_info["method"], request.query
        if method == "users.conversations":
            answer = self.listed
        elif method == "users.list":
            answer = {"members": []}
        elif method == "conversations.history":
            self.asked[asked["channel"]] += 1
            self.spans.append((asked["channel"], asked["oldest"], asked["latest"]))
            answer = self.history[asked["channel"]]
        else:
            self.asked[asked["ts"]] += 1
            answer = self.replies[asked["ts"]]
        answer = answer(request) if callable(answer) else answer
        return web.Response(body=orjson.dumps({"ok": True, **answer}), content_type="application/json")


class Stand:
    """A reader of such a vendor."""

    def __init__(self, vendor: Vendor, reader: Any) -> None:
        self.vendor, self.reader = vendor, reader

    async def kind(self, **how: Any) -> str | None:
        """A cycle: the kind of its failure."""
        failures = (await self.reader.run(**how))["failures"]
        return failures[0]["kind"] if failures else None

    async def backfilled(self, back_to: datetime) -> str | None:
        """One run of a backfill: the kind of its failure."""
        parts = self.reader.parts
        cycle = await parts.store.cycles.begin("slack", "backfill", None)
        claimed = await parts.store.connections.claim("slack", "l", cycle, due=None)
        errand = Errand(streams=SOURCE.backfill, back_to=back_to)
        _, error = await parts.engine.runs.sync(parts.engine.plans["slack"], *claimed, "l", errand)
        return getattr(error, "kind", None)

    async def live(self) -> set[str]:
        return set(await live(self.reader, "messages"))

    async def waiting(self) -> dict[str, str]:
        """The backlog: what waits in which stream, and why."""
        return {f"{one['stream']} {one['external_id']}": one["reason"] for one in await self.reader.backlog()}

    async def cursor(self, channel: str = "C1", stream: str = "messages") -> str:
        rows = await self.reader.rows("cursors")
        return next(str(row["cursor"]) for row in rows if (row["stream"], row["partition"]) == (stream, channel))

    async def set(self, table: str, **values: Any) -> None:
        async with self.reader.parts.store.database.write() as session:
            await session.execute(update(tables.metadata.tables[table]).values(**values))

    async def due(self) -> None:
        """All that waits or is watched has its time."""
        await self.set("backlog", next_try_at=LONG_AGO)
        await self.set("watches", next_try_at=LONG_AGO)


MakeStand = Callable[..., Awaitable[Stand]]


@pytest_asyncio.fixture
async def stand(reader: Any) -> AsyncIterator[MakeStand]:
    servers: list[Any] = []

    async def make(channels: int) -> Stand:
        vendor = Vendor(channels)
        servers.append(held := serving(vendor.serve))
        server: TestServer = await held.__aenter__()
        return Stand(vendor, await scripted(reader, server))

    yield make
    for held in servers:
        await held.__aexit__(None, None, None)


# ── channels ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_channel_that_fails_in_passing_each_time_waits_and_keeps_no_other_from_being_read(
    stand: MakeStand,
) -> None:
    s = await stand(2)
    s.vendor.history["C1"] = DOWN
    kinds = [await s.kind() for _ in range(3)]
    assert (kinds, {one.partition(":")[0] for one in await s.live()}) == ([None] * 3, {"C2"})
    assert "internal_error" in (await s.waiting())["messages C1"]


async def test_the_third_channel_in_a_row_that_fails_in_passing_ends_the_run(stand: MakeStand) -> None:
    s = await stand(9)
    s.vendor.history = dict.fromkeys(s.vendor.channels, DOWN)
    assert await s.kind() == "transient"
    assert s.vendor.asked == dict.fromkeys(("C1", "C2", "C3"), 1)


async def test_after_three_that_failed_the_next_run_begins_with_others(stand: MakeStand) -> None:
    s = await stand(5)
    s.vendor.history |= dict.fromkeys(("C1", "C2", "C3"), DOWN)
    await s.kind()
    await s.kind()
    assert {one.partition(":")[0] for one in await s.live()} == {"C4", "C5"}


async def test_a_channel_that_is_read_between_them_shows_that_slack_is_there(stand: MakeStand) -> None:
    s = await stand(5)
    s.vendor.history |= dict.fromkeys(("C1", "C2", "C4", "C5"), DOWN)
    assert await s.kind() is None


@pytest.mark.parametrize("channels", [1, 2])
async def test_where_no_channel_could_be_read_the_run_failed_however_few_there_are(
    stand: MakeStand, channels: int
) -> None:
    s = await stand(channels)
    s.vendor.history = dict.fromkeys(s.vendor.channels, DOWN)
    assert await s.kind() == "transient"


async def test_a_channel_that_failed_from_the_first_is_read_from_where_the_first_run_began(stand: MakeStand) -> None:
    s = await stand(2)
    good, s.vendor.history["C1"] = s.vendor.history["C1"], DOWN
    await s.kind()
    begun = orjson.loads(await s.cursor())["done"]
    s.vendor.history["C1"] = good
    await s.kind()
    oldest = [since for channel, since, _ in s.vendor.spans if channel == "C1"]
    assert oldest[-1] <= begun <= stamp(23 * 3600)
    assert await s.waiting() == {}


async def test_a_channel_that_fails_within_its_window_goes_on_below_what_was_read(stand: MakeStand) -> None:
    s = await stand(2)
    first, second = stamp(60), stamp(120)
    more = {"response_metadata": {"next_cursor": "2"}}
    s.vendor.history["C1"] = lambda request: (
        DOWN if request.query.get("cursor") else {"messages": [{"ts": first}], **more}
    )
    assert await s.kind() is None
    assert orjson.loads(await s.cursor())["window"]["lowest"] == first
    s.vendor.spans.clear()
    s.vendor.history["C1"] = lambda request: {"messages": [{"ts": first}, {"ts": second}]}
    await s.kind()
    latest = [until for channel, _, until in s.vendor.spans if channel == "C1"]
    assert (latest[0], f"C1:{second}" in await s.live()) == (first, True)


async def test_a_channel_that_a_sweep_could_not_read_waits_for_its_sweep_and_has_it_later(stand: MakeStand) -> None:
    s = await stand(2)
    await s.kind()
    quiet = s.vendor.history["C1"]
    old = stamp(3 * 86400)
    s.vendor.history["C1"] = lambda request: DOWN if request.query["oldest"] < stamp(2 * 86400) else quiet
    assert await s.kind(sweep=True) is None
    assert "internal_error" in (await s.waiting())["sweep C1"]
    await s.due()
    assert await s.kind() is None, "that it fails again keeps no cycle from its end"
    s.vendor.history["C1"] = lambda request: (
        {"messages": [{"ts": old}]} if request.query["oldest"] < stamp(2 * 86400) else quiet
    )
    await s.due()
    await s.kind()
    assert (f"C1:{old}" in await s.live(), await s.waiting()) == (True, {})


async def test_a_sweep_that_waits_for_a_channel_asks_no_other(stand: MakeStand) -> None:
    s = await stand(2)
    s.vendor.history["C1"] = lambda request: (
        DOWN if request.query["oldest"] < stamp(2 * 86400) else {"messages": [{"ts": stamp(60)}]}
    )
    await s.kind(sweep=True)
    await s.due()
    s.vendor.asked.clear()
    await s.kind()
    assert s.vendor.asked == {"C1": 2, "C2": 1}


async def test_a_channel_that_waits_for_its_sweep_and_is_closed_by_then_is_asked_ever_more_rarely(
    stand: MakeStand,
) -> None:
    s = await stand(2)
    answer = dict(DOWN)
    s.vendor.history["C1"] = lambda request: (
        answer if request.query["oldest"] < stamp(2 * 86400) else {"messages": [{"ts": stamp(60)}]}
    )
    await s.kind(sweep=True)
    answer["error"] = "not_in_channel"
    await s.due()
    await s.kind()
    s.vendor.asked.clear()
    await s.kind()
    assert s.vendor.asked == {"C1": 1, "C2": 1}


async def test_a_backfill_reads_the_other_channels_and_is_not_done_without_the_one_that_failed(
    stand: MakeStand,
) -> None:
    s = await stand(2)
    await s.kind()
    old = stamp(40 * 86400)
    s.vendor.history = {"C1": DOWN, "C2": {"messages": [{"ts": old}]}}
    assert (await s.backfilled(datetime.now(UTC) - timedelta(days=50)), f"C2:{old}" in await s.live()) == (
        "transient",
        True,
    )
    assert (await s.cursor("C2", "backfill"), await s.waiting()) != ("", {"backfill C1": "internal_error"})


async def test_a_backfill_that_is_cut_between_two_threads_of_a_page_reads_the_second_later(stand: MakeStand) -> None:
    s = await stand(1)
    await s.kind()
    reach, parents = datetime.now(UTC) - timedelta(days=50), [stamp(40 * 86400), stamp(41 * 86400)]
    replies = {ts: f"{ts[:-1]}1" for ts in parents}
    threads = {ts: [threaded(ts, reply), {"ts": reply, "thread_ts": ts}] for ts, reply in replies.items()}
    s.vendor.history["C1"] = lambda request: {
        "messages": [threads[ts][0] for ts in parents if ts <= request.query["latest"]]
    }
    s.vendor.replies = {parents[0]: {"messages": threads[parents[0]]}, parents[1]: REVOKED}
    assert await s.backfilled(reach) == "auth"
    await s.set("connections", status="ok")
    s.vendor.replies = {ts: {"messages": said} for ts, said in threads.items()}
    assert await s.backfilled(reach) is None
    assert await s.live() >= {f"C1:{reply}" for reply in replies.values()}
    assert s.vendor.asked[parents[0]] == 1


# ── threads ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_thread_that_fails_in_passing_each_time_waits_and_keeps_no_channel_from_being_read(
    stand: MakeStand,
) -> None:
    s = await stand(2)
    ts = stamp(100)
    s.vendor.history["C1"] = {"messages": [threaded(ts, stamp(50))]}
    s.vendor.replies[ts] = DOWN
    assert [await s.kind() for _ in range(2)] == [None, None]
    assert {one.partition(":")[0] for one in await s.live()} == {"C1", "C2"}
    assert "internal_error" in (await s.waiting())[f"messages C1:{ts}"]


async def test_a_waiting_thread_is_read_once_it_can_be(stand: MakeStand) -> None:
    s = await stand(1)
    ts, reply = stamp(100), stamp(50)
    parent = threaded(ts, reply)
    s.vendor.history["C1"], s.vendor.replies[ts] = {"messages": [parent]}, DOWN
    await s.kind()
    s.vendor.replies[ts] = {"messages": [parent, {"ts": reply, "thread_ts": ts}]}
    await s.due()
    await s.kind()
    assert (f"C1:{reply}" in await s.live(), await s.waiting()) == (True, {})


async def test_the_third_thread_in_a_row_that_fails_in_passing_ends_the_run_and_the_next_goes_on(
    stand: MakeStand,
) -> None:
    s = await stand(1)
    parents = {stamp(ago): threaded(stamp(ago), stamp(50)) for ago in (100, 200, 300, 400)}
    s.vendor.history["C1"] = {"messages": list(parents.values())}
    s.vendor.replies = dict.fromkeys(parents, DOWN)
    assert await s.kind() == "transient"
    assert (sum(s.vendor.asked[ts] for ts in parents), len(await s.live())) == (3, 3)
    assert await s.kind() is None
    assert len(await s.live()) == 4


async def test_waiting_threads_that_all_fail_keep_no_channel_from_being_read(stand: MakeStand) -> None:
    s = await stand(2)
    parents = {stamp(ago): threaded(stamp(ago), stamp(50)) for ago in (100, 200, 300)}
    s.vendor.history["C1"] = {"messages": list(parents.values())}
    s.vendor.replies = dict.fromkeys(parents, DOWN)
    await s.kind()
    await s.due()
    late = stamp(5)
    s.vendor.history["C2"] = {"messages": [{"ts": late}]}
    assert await s.kind() is None
    assert f"C2:{late}" in await s.live()


async def watched(s: Stand) -> tuple[str, str, dict[str, Any]]:
    """A thread that is too old for any window, with its reply; its time has come."""
    ts, reply = stamp(20 * 86400), stamp(19 * 86400)
    parent = threaded(ts, reply)
    s.vendor.history["C1"] = {"messages": [parent]}
    s.vendor.replies[ts] = {"messages": [parent, {"ts": reply, "thread_ts": ts}]}
    await s.kind()
    s.vendor.history["C1"] = {"messages": []}
    await s.due()
    return ts, reply, parent


async def test_a_watched_thread_that_fails_in_passing_keeps_no_sweep_from_coming(stand: MakeStand) -> None:
    s = await stand(1)
    ts, _, _ = await watched(s)
    s.vendor.replies[ts] = DOWN
    assert await s.kind(sweep=True) is None
    assert await s.cursor(stream="sweep")
    assert "internal_error" in (await s.waiting())[f"messages C1:{ts}"]


async def test_whether_a_thread_is_gone_that_slack_does_not_find_waits_where_its_history_fails(
    stand: MakeStand,
) -> None:
    s = await stand(1)
    ts, reply, _ = await watched(s)
    s.vendor.replies[ts] = {"ok": False, "error": "thread_not_found"}
    s.vendor.history["C1"] = lambda request: DOWN if request.query["latest"] == ts else {"messages": []}
    assert await s.kind() is None
    assert (f"messages C1:{ts}" in await s.waiting(), f"C1:{reply}" in await s.live()) == (True, True)


# ── answers that prove nothing ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("odd", [{}, {"messages": None}, {"messages": {}}], ids=["absent", "null", "an object"])
async def test_a_history_without_its_list_is_not_read_to_its_end(stand: MakeStand, odd: dict[str, Any]) -> None:
    """After three days in which nothing was read: no later window would reach back to them."""
    s = await stand(1)
    s.vendor.history["C1"] = {"messages": []}
    await s.kind()
    begun = stamp(3 * 86400)
    await s.set("cursors", cursor=begun)
    s.vendor.listed, s.vendor.history["C1"] = {"channels": [{"id": "C1"}]}, odd
    async with s.reader.parts.store.database.write() as session:
        known = tables.cursors
        for stream in ("people", "conversations"):
            await session.execute(known.delete().where(known.c.stream == stream))
    assert await s.kind() == "transient"
    assert orjson.loads(await s.cursor())["done"] == begun


async def test_a_listing_of_channels_without_its_list_takes_none_away(stand: MakeStand) -> None:
    s = await stand(1)
    await s.kind()
    before, s.vendor.listed = await s.cursor("", "conversations"), {}
    known = orjson.loads(before) | {"at": LONG_AGO.isoformat()}
    async with s.reader.parts.store.database.write() as session:
        of = tables.cursors
        changed = update(of).where(of.c.stream == "conversations").values(cursor=orjson.dumps(known).decode())
        await session.execute(changed)
    assert await s.kind() == "transient"
    assert orjson.loads(await s.cursor("", "conversations"))["channels"] == ["C1"]


@pytest.mark.parametrize("more", [False, True])
async def test_an_empty_thread_deletes_no_reply_and_is_asked_for_again(stand: MakeStand, more: bool) -> None:
    s = await stand(1)
    ts, reply, _ = await watched(s)
    s.vendor.replies[ts] = {"messages": [], "has_more": more}
    await s.kind()
    assert (f"C1:{reply}" in await s.live(), f"messages C1:{ts}" in await s.waiting()) == (True, True)


@pytest.mark.parametrize("odd", ["no parent", "more to come"])
async def test_a_thread_that_was_not_given_whole_deletes_no_reply(stand: MakeStand, odd: str) -> None:
    s = await stand(1)
    ts, reply, parent = await watched(s)
    parent |= {"reply_count": 0}
    other = {"ts": stamp(18 * 86400), "thread_ts": ts}
    s.vendor.replies[ts] = (
        {"messages": [other]} if odd == "no parent" else {"messages": [parent, other], "has_more": True}
    )
    assert await s.kind() is None
    assert {f"C1:{reply}", f"C1:{other['ts']}"} <= await s.live()


async def test_a_history_of_a_thread_that_has_more_does_not_prove_it_gone(stand: MakeStand) -> None:
    s = await stand(1)
    ts, reply, _ = await watched(s)
    s.vendor.replies[ts] = {"ok": False, "error": "thread_not_found"}
    s.vendor.history["C1"] = {"messages": [], "has_more": True}
    await s.kind()
    assert f"C1:{reply}" in await s.live()


async def test_a_deleted_parent_that_keeps_its_replies_is_deleted_once(stand: MakeStand) -> None:
    s, ts, reply = await stand(1), stamp(100), stamp(50)
    gone = {**threaded(ts, reply), "subtype": "tombstone"}
    s.vendor.history["C1"], s.vendor.replies[ts] = (
        {"messages": [gone]},
        {"messages": [gone, {"ts": reply, "thread_ts": ts}]},
    )
    assert await s.kind() is None
    pages = s.reader.parts.store.pages
    pages.checkpoint = None  # there is nothing to store
    assert (await s.kind(), await s.live()) == (None, {f"C1:{reply}"})
