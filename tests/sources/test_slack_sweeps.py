"""Slack: sweeps and windows that take several runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from syncd import tables
from tests.sources.slack_stage import CHANNEL, MakeStage


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


@pytest.mark.parametrize("pages", range(1, 6))
async def test_a_reply_that_goes_while_the_run_of_its_thread_was_cut_is_missed_by_no_sweep(
    stage: MakeStage, pages: int
) -> None:
    """Wherever it was cut: the history that shows the parent once more shows it without a reply."""
    s = await stage()
    parent = s.post("anybody?")
    await s.after()
    gone, _ = s.reply(parent), s.post("a later one")
    s.cut(pages)
    await s.after()
    s.cut(None)
    s.delete(gone)
    await s.after(sweep=True, hours=26)
    assert not await s.is_live(gone)
