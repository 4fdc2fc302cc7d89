"""Gong's older history, what it will take, and the comparison of Gong with the store."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncd.audit import Audit, Finding
from syncd.backfill import Backfill
from syncd.sandbox.faults import Fault
from syncd.sandbox.world import Options, StandingClock, World
from syncd.sources import gong
from tests.sources.conftest import Reader
from tests.sources.test_contract import Cut
from tests.sources.test_gong_late import add, calls, later, live, waiting

HOUR = 3600


@pytest.fixture
def old(reader, sandbox):
    """A company with a call of every ten days of the last hundred, after the first regular run, on one clock.

    It stands at 12:07, far from the regular turns of 12:05 and 12:20, to which a backfill gives way.
    """

    async def make(*, page_size: int = 0, **given: Any) -> tuple[Reader, list[str]]:
        options = Options(limits=False, calls_per_day=0, page_size=page_size)
        box = await sandbox(options, World(options, StandingClock(datetime(2026, 1, 5, 12, 7, tzinfo=UTC))))
        r = await reader("gong", box=box, one_clock=True, **given)
        made = [add(r, minutes_ago=60 * 24 * day) for day in range(5, 105, 10)]
        await later(r)
        return r, made

    return make


def back_to(r: Reader, days: int) -> datetime:
    return r.box.world.clock.now() - timedelta(days=days)


async def work_of(r: Reader, to: datetime) -> Backfill:
    async def sleep(seconds: float) -> None:
        r.box.world.clock.advance(timedelta(seconds=seconds))

    return Backfill(
        await r.parts.store.connections.all(),
        back_to=to,
        engine=r.parts.engine,
        store=r.parts.store,
        vault=r.parts.vault,
        now=r.box.world.clock.now,
        sleep=sleep,
    )


async def backfill(r: Reader, to: datetime) -> Backfill:
    work = await work_of(r, to)
    await work.run()
    return work


def cut(r: Reader, after: int) -> None:
    """Let the coming backfill be cut after so many pages of all its streams."""
    cutting = Cut(after)
    streams = tuple(replace(one, read=cutting(one.read)) for one in gong.SOURCE.backfill)
    plan = r.parts.engine.plans["gong"]
    r.parts.engine.plans = {"gong": replace(plan, source=replace(gong.SOURCE, backfill=streams))}


async def test_older_history_is_read_with_its_transcripts_and_the_cursors_are_dropped(old):
    r, made = await old()
    (part,) = (await backfill(r, back_to(r, 80))).parts
    assert (part.status, part.error) == ("finished", None)
    assert sorted(await live(r)) == sorted(await live(r, "transcripts")) == sorted(made[:8])
    assert part.reached == back_to(r, 80).replace(microsecond=0)
    assert "backfill" not in {row["stream"] for row in await r.rows("cursors")}


async def test_the_newest_comes_first(old):
    r, made = await old()
    cut(r, 1)
    await backfill(r, back_to(r, 100))
    assert sorted(await live(r)) == sorted(made[:3])


@pytest.mark.parametrize("page_size", [0, 2])
async def test_a_backfill_that_is_cut_at_every_page_reads_all_and_no_slice_twice(old, page_size):
    r, made = await old(page_size=page_size)
    to = back_to(r, 100)
    for _ in range(30):
        cut(r, 1)
        if (await backfill(r, to)).parts[0].status == "finished":
            break
    assert sorted(await live(r)) == sorted(await live(r, "transcripts")) == sorted(made)
    assert part_cursors(await r.rows("cursors")) == []


async def test_what_is_listed_is_not_listed_again_while_its_transcripts_are_read(old):
    r, _ = await old()
    to = back_to(r, 100)
    cut(r, 4)
    await backfill(r, to)
    assert [json.loads(row["cursor"])["at"] for row in part_cursors(await r.rows("cursors"))] == [""]
    before = calls(r, "calls/extensive")
    cut(r, 1)
    await backfill(r, to)
    assert calls(r, "calls/extensive") == before


async def test_what_an_unfinished_backfill_left_is_not_taken_for_another_request(old):
    r, made = await old()
    cut(r, 2)
    await backfill(r, back_to(r, 70))
    gone = made[0]
    r.box.gong.act("acme", "delete", {"id": gone})
    cut(r, 99)
    await backfill(r, back_to(r, 100))
    assert sorted(await live(r)) == sorted(made[1:]), "the newest slice was read anew"


async def test_chosen_workspaces_are_read_back_one_by_one(old):
    r, made = await old()
    first, second = (space["id"] for space in r.box.gong._tenants["acme"].workspaces)
    r.box.gong._tenants["acme"].calls[made[2]].workspace_id = second
    r.box.gong._tenants["acme"].calls[made[3]].workspace_id = "elsewhere"
    await set_up(r, {"workspace_ids": [first, second]})
    await later(r)
    await backfill(r, back_to(r, 50))
    assert sorted(await live(r)) == sorted({*made[:5]} - {made[3]})


async def set_up(r: Reader, settings: dict[str, Any]) -> None:
    from syncd.store import Line

    line = Line(workspace_id="acme", source="gong", settings=settings)
    await r.parts.store.connections.put([line], r.parts.vault.seal)


async def test_content_of_old_calls_that_is_missing_is_left_to_the_regular_cycles(old):
    r, made = await old()
    r.box.gong._tenants["acme"].calls[made[4]].content_at += timedelta(days=2)
    await backfill(r, back_to(r, 50))
    assert await waiting(r, "content") == [made[4]]
    await later(r, days=3)
    assert await waiting(r, "content") == []


async def test_the_estimate_is_a_call_for_each_slice_and_counts_pages_and_batches(old):
    r, _ = await old()
    work, before = await work_of(r, back_to(r, 100)), calls(r)
    await work.estimate()
    found = work.parts[0].estimate
    assert calls(r) - before == 4
    assert (found.calls, found.draws) == (4 + 1, {"calls": 5, "day": 5})
    assert "about 10 calls" in found.items


def part_cursors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["stream"] == "backfill"]


# --- the comparison -------------------------------------------------------------------------------------------------


async def audit(r: Reader, **how: Any) -> Finding:
    connections = await r.parts.store.connections.all()
    work = Audit(
        connections,
        engine=r.parts.engine,
        store=r.parts.store,
        vault=r.parts.vault,
        now=r.box.world.clock.now,
        **how,
    )
    await work.run()
    (found,) = work.findings
    assert found.error is None
    return found


@pytest.fixture
def swept(reader, sandbox):
    """The usual company after a sweep: all calls of the last week, some of them not ready yet."""

    async def make(**options: Any) -> Reader:
        box = await sandbox(Options(limits=False, **options))
        r = await reader("gong", box=box, one_clock=True)
        await later(r)
        await later(r, sweep=True)
        for _ in range(3):
            await later(r, minutes=16)  # all transcripts of the backlog
        return r

    return make


async def test_a_store_that_holds_all_is_clean(swept):
    r = await swept()
    found = await audit(r)
    assert found.clean, found
    wanted = r.box.gong.holdings("acme")
    assert found.checked >= sum(map(len, wanted.values()))


async def test_calls_and_transcripts_that_are_missing_stale_or_gone_are_named(swept):
    r = await swept(calls_per_day=0)
    edited, gone, fine = add(r), add(r), add(r)
    await later(r)
    r.box.gong.act("acme", "edit", {"id": edited, "title": "Other"})
    r.box.gong.act("acme", "delete", {"id": gone})
    late = add(r, minutes_ago=120)
    found = await audit(r)
    assert list(found.stale.named) == [("meetings", edited)]
    assert sorted(found.extra.named) == [("meetings", gone), ("transcripts", gone)]
    assert list(found.missing.named) == [("meetings", late)]
    assert fine in await live(r)


async def test_a_transcript_that_gong_has_and_the_store_does_not_is_missing_and_one_it_lacks_waits(swept):
    r = await swept(calls_per_day=0)
    ready, unready = add(r, ready_in_s=HOUR), add(r, ready_in_s=9 * HOUR)
    await later(r)
    r.box.world.clock.advance(timedelta(hours=2))
    found = await audit(r)
    assert ("transcripts", ready) in found.missing.named
    assert ("transcripts", unready) not in found.missing.named
    assert found.waiting == 1
    assert any(fact.startswith("2 calls without transcript") for fact in found.facts)


@pytest.mark.parametrize(("sample", "found_all"), [(None, True), (1, False)])
async def test_stored_transcripts_are_read_again_all_or_a_sample(swept, sample, found_all):
    r = await swept(calls_per_day=0)
    made = [add(r) for _ in range(4)]
    await later(r)
    for call in made:
        r.box.gong._tenants["acme"].calls[call].seed += "/changed"
    found = await audit(r, sample=sample)
    assert (found.stale.by_kind["transcripts"] == 4) is found_all
    assert found.stale.by_kind["transcripts"] >= 1


async def test_a_transcript_that_gong_shows_no_more_is_told_and_not_called_extra(swept):
    r = await swept(calls_per_day=0)
    call = add(r)
    await later(r)
    r.box.gong._tenants["acme"].calls[call].transcript_at += timedelta(days=99)
    found = await audit(r)
    assert "transcripts" not in found.extra.by_kind
    assert any("1 stored transcripts are no longer shown" in fact for fact in found.facts)


async def test_what_no_cycle_could_have_read_yet_is_not_missing(swept):
    r = await swept(calls_per_day=0)
    r.box.world.clock.advance(timedelta(hours=3))
    add(r, minutes_ago=30)
    assert (await audit(r)).clean


async def test_before_the_first_sweep_only_the_window_of_the_cycles_is_compared(reader, sandbox):
    r = await reader("gong", box=await sandbox(Options(limits=False)), one_clock=True)
    await later(r)
    found = await audit(r)
    assert found.missing.by_kind["meetings"] == 0
    assert any("no sweep has read" in fact for fact in found.facts)


async def test_an_audit_of_a_key_that_lost_its_sight_calls_nothing_extra(swept):
    r = await swept()
    r.box.world.options.switches["gong.visibility"] = "none"
    assert (await audit(r)).extra.count == 0


async def test_one_transcript_that_fails_does_not_end_the_audit(swept):
    r = await swept(calls_per_day=0)
    add(r, ready_in_s=HOUR)
    await later(r)
    r.box.world.faults.rules.append(Fault("400", "gong", "calls/transcript"))
    assert (await audit(r)).waiting == 1
