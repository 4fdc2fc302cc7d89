"""Gong: what comes, changes, hides or goes late arrives, and nothing is taken for a deletion that is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from syncd.records import Deletion, Meeting, Transcript
from syncd.sandbox.faults import Fault
from syncd.sandbox.world import Options
from syncd.source import Page, Since
from syncd.sources import gong_window
from syncd.store import Line
from tests.sources.conftest import Reader
from tests.sources.test_gong import Scripted, _api, _listing

DAY = timedelta(days=1)
NOW = datetime(2026, 9, 1, tzinfo=UTC)


@pytest.fixture
def quiet(reader, sandbox):
    """A reader of a company whose calls a test adds, on one clock with it."""

    async def make(*, page_size: int = 0, **given: Any) -> Reader:
        box = given.pop("box", None) or await sandbox(Options(limits=False, calls_per_day=0, page_size=page_size))
        return await reader("gong", box=box, one_clock=True, **given)

    return make


def add(r: Reader, **body: Any) -> str:
    return str(r.box.gong.act("acme", "add", body)["call"])


async def later(r: Reader, *, sweep: bool = False, **by: float) -> dict[str, Any]:
    """A cycle, so much later."""
    r.box.world.clock.advance(timedelta(**by))
    status = await r.run(sweep=sweep)
    assert status["failures"] == []
    return status


def calls(r: Reader, method: str = "") -> int:
    return sum(count for (_, name), count in r.box.world.counts.items() if name.startswith(method))


async def live(r: Reader, table: str = "meetings") -> list[str]:
    return [row["external_id"] for row in await r.rows(table) if row["deleted_at"] is None]


async def waiting(r: Reader, stream: str) -> list[str]:
    return [row["external_id"] for row in await r.backlog() if row["stream"] == stream]


async def assert_holds_all(r: Reader) -> None:
    """Row by row what the sandbox says that a reader should hold."""
    for kind, wanted in r.box.gong.holdings("acme").items():
        held = {row["external_id"]: row["raw"] for row in await r.rows(kind) if row["deleted_at"] is None}
        assert held == wanted, kind


# --- what comes later -----------------------------------------------------------------------------------------------


async def test_ai_content_that_comes_within_the_window_costs_no_call_of_its_own(quiet):
    r = await quiet()
    call = add(r, content_in_s=3600)
    await later(r)
    assert await waiting(r, "content") == [call]
    before = calls(r, "calls/")
    await later(r, minutes=15)
    await later(r, minutes=50)
    assert (await waiting(r, "content"), calls(r, "calls/") - before) == ([], 2)
    await assert_holds_all(r)


async def test_ai_content_that_comes_after_the_window_is_asked_for_and_stored(quiet):
    r = await quiet()
    add(r, content_in_s=2 * 86400, title="Late")
    await later(r)
    for _ in range(4):
        await later(r, days=1)
    assert await waiting(r, "content") == []
    assert (await r.rows("meetings"))[0]["summary"]
    await assert_holds_all(r)


async def test_ai_content_is_asked_for_in_one_call_and_ever_more_rarely(quiet):
    r = await quiet()
    for _ in range(3):
        add(r, content_in_s=86400 * 20)
    await later(r)
    r.box.world.clock.advance(timedelta(hours=30))
    asked = []
    for _ in range(24):
        before = calls(r, "calls/extensive")
        await later(r, hours=1)
        asked.append(calls(r, "calls/extensive") - before)
    assert asked[0] == 2, "the window, and one batch for all three"
    assert 24 + 4 <= sum(asked) <= 24 + 8


async def test_a_call_that_is_private_when_its_content_is_asked_for_is_deleted(quiet):
    r = await quiet()
    call = add(r, content_in_s=86400 * 2)
    await later(r)
    r.box.gong.act("acme", "edit", {"id": call, "private": True})
    await later(r, hours=30)
    assert (await live(r), await waiting(r, "content")) == ([], [])


@pytest.mark.parametrize(("stream", "member"), [("transcripts", "ready_in_s"), ("content", "content_in_s")])
async def test_what_does_not_come_is_given_up_after_the_wait_and_not_before(quiet, stream, member):
    r = await quiet(overrides={"content_wait": "5d"})
    call = add(r, **{member: 86400 * 99})
    await later(r)
    for _ in range(5):
        await later(r, days=1)
        assert await waiting(r, stream) == [call]
    with capture_logs() as said:
        for _ in range(2):
            await later(r, days=1)
        assert await waiting(r, stream) == []
        await later(r, sweep=True)
        assert await waiting(r, stream) == [], "the sweep does not announce it anew"
    assert [call in one["note"] for one in said if one["event"] == "source.noted"] == [True], "told once"


async def test_a_wait_that_an_outage_outlasted_gets_a_last_try(quiet):
    r = await quiet(overrides={"content_wait": "5d"})
    add(r, ready_in_s=86400, content_in_s=86400)
    await later(r)
    await later(r, days=40)
    assert await r.backlog() == []
    await assert_holds_all(r)


async def test_a_passing_fault_is_no_reason_to_give_up(quiet):
    r = await quiet(overrides={"content_wait": "5d"})
    call = add(r, ready_in_s=86400)
    await later(r)
    r.box.world.faults.rules.append(Fault("500", "gong", "calls/transcript"))
    await later(r, days=10)
    assert await waiting(r, "transcripts") == [call]


async def test_a_call_that_gong_lists_days_late_is_read_by_the_sweep(quiet):
    r = await quiet()
    await later(r)
    call = add(r, visible_in_s=86400 * 3, ready_in_s=86400 * 3, content_in_s=86400 * 3)
    await later(r, days=4)
    assert await live(r) == []
    await later(r, sweep=True)
    assert await live(r) == [call]
    await assert_holds_all(r)


# --- what goes ------------------------------------------------------------------------------------------------------


async def test_a_deleted_call_is_deleted_with_its_transcript_and_kept(quiet):
    r = await quiet()
    call, other = add(r), add(r)
    await later(r)
    r.box.gong.act("acme", "delete", {"id": call})
    assert (await later(r, minutes=15))["deleted"] == 2
    assert (await live(r), await live(r, "transcripts")) == ([other], [other])
    assert next(row for row in await r.rows("meetings") if row["external_id"] == call)["raw"]["metaData"]["id"] == call


async def test_a_call_deleted_after_its_window_goes_with_the_sweep(quiet):
    r = await quiet()
    call = add(r)
    await later(r)
    other = add(r)
    await later(r, days=3)
    r.box.gong.act("acme", "delete", {"id": call})
    add(r)
    await later(r)
    assert call in await live(r)
    await later(r, sweep=True)
    assert call not in await live(r)
    assert other in await live(r)


async def test_a_window_that_lists_nothing_deletes_nothing(quiet):
    r = await quiet()
    call = add(r)
    await later(r)
    r.box.world.options.switches["gong.visibility"] = "none"
    before = calls(r, "calls/extensive")
    await later(r, minutes=15)
    assert (await live(r), calls(r, "calls/extensive") - before) == ([call], 1)


async def three_days_apart(quiet) -> tuple[Reader, str, str]:
    """A call that is out of the cycle's window, and the only one in it."""
    r = await quiet()
    older = add(r)
    await later(r)
    r.box.world.clock.advance(timedelta(days=3))
    call = add(r)
    await later(r)
    return r, older, call


async def test_where_a_window_lists_nothing_an_older_call_is_the_witness_of_a_deletion(quiet):
    r, older, call = await three_days_apart(quiet)
    r.box.gong.act("acme", "delete", {"id": call})
    await later(r, minutes=15)
    assert await live(r) == [older]


async def test_but_not_where_the_older_call_is_not_shown_either(quiet):
    r, older, call = await three_days_apart(quiet)
    r.box.world.options.switches["gong.visibility"] = "none"
    await later(r, minutes=15)
    assert sorted(await live(r)) == sorted([older, call])


async def test_only_what_gong_leaves_out_beside_a_call_that_it_shows_is_deleted():
    """The window misses 2 and 3: asked by id, 3 is there; asked without sight, nobody is deleted."""
    for shown, wanted in ((["1", "3"], ["2"]), (["3"], [])):
        net = Scripted(_listing("1"), _listing(*shown))
        assert await _deleted(net, held=["1", "2", "3"]) == wanted
        assert net.asked[1][2]["json"] == {"filter": {"callIds": ["1", "2", "3"]}}


async def test_no_answer_about_what_is_missing_deletes_nothing_and_does_not_hold_the_window_back():
    assert await _deleted(Scripted(_listing("1"), (500, {})), held=["1", "2"]) == []


async def test_a_listing_that_gives_nothing_to_doubt_costs_one_call():
    net = Scripted(_listing("1"))
    assert await _deleted(net, held=["1"]) == []
    assert len(net.asked) == 1


async def test_of_a_chosen_workspace_only_its_own_calls_are_missed():
    net = Scripted(_listing("1"))
    metas = {"1": {"workspaceId": "A"}, "2": {"workspaceId": "B"}}
    assert await _deleted(net, held=["1", "2"], metas=metas, space="A") == []


async def _deleted(net: Scripted, *, held: list[str], metas: Any = None, space: str = "") -> list[str]:
    """Whom a window deletes that ends well."""

    class Stored:
        async def stored(self, kind, ids, *members):
            return {one: tuple((metas or {}).get(one) for _ in members) for one in ids if one in held}

        async def select(self, kind, *members, between):
            return dict.fromkeys(held, (None,) * len(members))

    pages = [(page, covered) async for page, covered in _window(net, Stored(), space)]
    assert pages[-1][1] == NOW
    return [one.external_id for page, _ in pages for one in page.deletions if one.kind is Meeting]


def _window(net: Scripted, held: Any = None, space: str = "") -> AsyncIterator[tuple[Page, datetime | None]]:
    return gong_window.window(_api(net), replace(_SINCE, held=held or Nothing()), NOW - DAY, NOW, space)


class Nothing:
    async def stored(self, *_):
        return {}

    async def select(self, *_, **__):
        return {}


_SINCE = Since(now=NOW, lookback=DAY, cycle_lookback=DAY, sweep_lookback=DAY, held=Nothing())


# --- private calls --------------------------------------------------------------------------------------------------


async def test_turning_the_setting_on_takes_effect_with_the_sweep_also_on_calls_older_than_it(quiet):
    r = await quiet(settings={"skip_private": False})
    call, other = add(r, private=True), add(r)
    await later(r)
    line = Line(workspace_id="acme", source="gong", settings={"skip_private": True})
    await r.parts.store.connections.put([line], r.parts.vault.seal)
    await later(r, days=20)
    assert sorted(await live(r)) == sorted([call, other])
    await later(r, sweep=True)
    assert (await live(r), await live(r, "transcripts")) == ([other], [other])


async def test_a_private_call_on_a_page_costs_no_question_of_its_own_and_is_deleted_with_its_transcript():
    class Stored(Nothing):
        asked = 0

        async def stored(self, kind, ids, *members):
            self.asked += 1
            return dict.fromkeys(ids, (None,) * len(members))

    held = Stored()
    rows = [{"metaData": {"id": call, "isPrivate": call == "2"}} for call in "12"]
    page = await gong_window.calls_page(_api(Scripted()), replace(_SINCE, held=held), rows)
    assert [one.external_id for one in page.records] == ["1"]
    assert page.deletions == [Deletion(Meeting, "2"), Deletion(Transcript, "2")]
    assert held.asked == 2


async def test_a_call_that_is_public_again_comes_back_with_its_transcript(quiet):
    r = await quiet()
    call = add(r)
    await later(r)
    r.box.gong.act("acme", "edit", {"id": call, "private": True})
    await later(r, minutes=15)
    assert (await live(r), await live(r, "transcripts")) == ([], [])
    r.box.gong.act("acme", "edit", {"id": call, "private": False})
    await later(r, minutes=15)
    assert (await live(r), await live(r, "transcripts")) == ([call], [call])


# --- runs that are cut ----------------------------------------------------------------------------------------------


def one_page_a_run(r: Reader, limited: bool = True) -> None:
    """The coming runs reach their time limit with their first page."""
    limit = timedelta(0) if limited else timedelta(minutes=10)
    r.parts.engine.plans = {"gong": replace(r.parts.engine.plans["gong"], run_timeout=limit)}


async def scheduled(r: Reader, **by: float) -> None:
    """A cycle of the schedule, so much later: a sweep that was not done to its end is due again."""
    r.box.world.clock.advance(timedelta(**by))
    await r.parts.engine.cycle("gong", trigger="schedule", turn=r.box.world.clock.now())


async def test_a_window_longer_than_a_run_is_read_on_from_run_to_run(quiet):
    r = await quiet(page_size=2)
    made = [add(r, minutes_ago=60 + 5 * number) for number in range(12)]
    one_page_a_run(r)
    for _ in range(11):  # the last call of a page is the first of the next run
        await r.run()
    assert sorted(await live(r)) == sorted(made)


async def test_a_sweep_longer_than_a_run_is_read_on_from_run_to_run_and_not_begun_again(quiet):
    r = await quiet(page_size=2)
    await later(r)
    made = [add(r, minutes_ago=60 * (200 + number)) for number in range(12)]
    one_page_a_run(r)
    await scheduled(r, hours=7)
    for _ in range(11):
        await scheduled(r, minutes=16)
    assert sorted(await live(r)) == sorted(made)
    one_page_a_run(r, limited=False)
    before = calls(r, "calls/extensive")
    await scheduled(r, minutes=16)
    assert calls(r, "calls/extensive") - before == 1, "only the cycle's window, though the sweep is still due"


async def test_a_sweep_that_is_due_for_days_is_done_each_day(quiet):
    """Another stream that never ends well must not keep the edits out."""
    r = await quiet()
    call = add(r)
    await later(r)
    r.box.world.faults.rules.append(Fault("500", "gong", "users"))
    await scheduled(r, days=2)
    r.box.gong.act("acme", "edit", {"id": call, "title": "Edited"})
    await scheduled(r, days=1)
    assert (await r.rows("meetings"))[0]["title"] == "Edited"


async def test_an_outage_of_months_is_read_on_from_run_to_run(quiet):
    r = await quiet()
    await later(r)
    made = [add(r, minutes_ago=-60 * 24 * day) for day in (10, 40, 70, 100)]
    r.box.world.clock.advance(timedelta(days=101))
    r.box.gong.act("acme", "ripen", {})
    one_page_a_run(r)
    for _ in range(4):
        await r.run()
    assert sorted(await live(r)) == sorted(made)


async def test_where_gong_does_not_list_the_oldest_first_only_the_last_page_tells_how_far_it_is_read():
    net = Scripted(_started("2", "1", cursor="c1"), _started("3", cursor="c2"), _started("4"))
    assert await _covered(net) == [None, None, "end"]
    net = Scripted(_started("1", "2", cursor="c1"), _started("2", "3", cursor="c2"), _started("4"))
    assert await _covered(net) == [2, 3, "end"]


def _started(*hours: str, cursor: str | None = None) -> tuple[int, object]:
    rows = [{"metaData": {"id": f"{hour}{cursor}", "started": f"2026-08-31T0{hour}:00:00.5Z"}} for hour in hours]
    return 200, {"records": {"totalRecords": 9, "cursor": cursor}, "calls": rows}


async def _covered(net: Scripted) -> list[object]:
    return ["end" if at == NOW else at and at.hour async for _, at in _window(net)]
