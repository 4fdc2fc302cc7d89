"""Slack: what is deleted late goes, and nothing is taken for a deletion that is none."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from syncd.source import Since
from syncd.sources import slack_history
from tests.sources.slack_stage import CHANNEL, MakeStage, Stage


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


async def test_a_message_deleted_in_an_outage_is_gone_with_the_first_cycle_after_it(stage: MakeStage) -> None:
    """Its window reaches back to the last one, and nothing is stored that is younger than the usual one."""
    s = await stage(sweep_every="30d")
    ts = s.post()
    await s.after()
    s.delete(ts)
    assert (await s.after(hours=30))["deleted"] == 1


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


def odd_first_page(s: Stage, rows_of_it: int, **more: Any) -> None:
    """From now on a channel's newest page ends with a row from long before its window; the rest comes with the next."""
    original = s.box.slack._pages.cut

    def cut(method: str, args: Any, rows: Any, *rest: Any) -> Any:
        if method != "conversations.history":
            return original(method, args, rows, *rest)
        if args.get("cursor"):
            return rows[rows_of_it:], {"response_metadata": {"next_cursor": ""}}
        first = [*rows[:rows_of_it], {"ts": "1000000000.000000", "reply_count": 1}]
        return first, {"response_metadata": {"next_cursor": "2"}, **more}

    s.box.slack._pages.cut = cut  # type: ignore[method-assign]


async def test_a_row_from_before_the_window_is_no_proof_that_all_in_between_is_deleted(stage: MakeStage) -> None:
    s = await stage()
    old = s.post("old")
    await s.after()
    s.box.world.clock.advance(timedelta(days=3))
    s.post("new")
    await s.after()
    odd_first_page(s, 9)
    await s.after(minutes=15)
    assert await s.is_live(old)


@pytest.mark.parametrize("pages", [2, 3, 4])
async def test_a_window_with_a_row_from_before_it_goes_on_below_what_was_read(stage: MakeStage, pages: int) -> None:
    s = await stage()
    posted = [s.post(f"{n}") for n in range(3)]
    odd_first_page(s, 1)
    s.cut(pages)  # the beginning of the channel, then its first page, in parts
    await s.after(minutes=15)
    s.cut(None)
    await s.after(days=3)
    assert all([await s.is_live(ts) for ts in posted])


async def test_a_window_that_can_prove_nothing_looks_up_nothing(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a free plan that may be the whole hidden past of a channel."""
    s = await stage()
    s.post()
    await s.after()
    odd_first_page(s, 9, is_limited=True)
    asked: list[str] = []

    async def stored(_: Since, channel: str, *span: str) -> set[str]:
        asked.append(channel)
        return set()

    monkeypatch.setattr(slack_history, "_stored", stored)
    await s.after(minutes=15)
    assert asked == []


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
