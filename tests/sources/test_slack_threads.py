"""Slack: threads older than the sweep are watched, and an idle one costs nothing."""

from __future__ import annotations

from datetime import timedelta

from tests.sources.slack_stage import CHANNEL, MakeStage


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
