"""Slack: the backfill and the audit."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from syncd import tables
from syncd.live import Errand
from syncd.records import Message
from syncd.source import Page, Since
from syncd.sources.slack import SOURCE
from tests.sources.slack_stage import CHANNEL, MakeStage, Stage
from tests.sources.test_contract import Cut


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
