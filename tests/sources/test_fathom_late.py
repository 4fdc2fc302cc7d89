"""The Fathom source: what comes, changes and goes after a meeting was first listed."""

# ruff: noqa: F811 - a fixture that is imported is named again where it is used

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import ceil
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from syncd import tables
from syncd.records import Meeting
from syncd.sandbox.faults import Fault
from syncd.sandbox.world import Options
from syncd.source import Since, Waiting
from syncd.sources import fathom_details
from tests.sources.test_fathom_failures import scripted  # noqa: F401 - a fixture

ACCESS = pytest.mark.parametrize("workspace", ["acme", "northwind"], ids=["key", "oauth"])
KEY = {"api_key": "k"}


@pytest_asyncio.fixture
async def begun(reader, sandbox):
    """``await begun("acme")``: a connection that names its account and has had its first run. One clock for all."""

    async def begin(workspace: str = "acme", **given: Any):
        box = await sandbox(Options(workspaces=2, limits=False, meetings_per_day=1))
        r = await reader("fathom", box=box, workspace=workspace, one_clock=True, **given)
        await of(r, box.world.companies[workspace].staff[0].email.title())
        r.workspace = workspace
        await r.run()
        return r

    return begin


async def of(r, account: str) -> None:
    async with r.parts.store.database.write() as session:
        await session.execute(tables.connections.update().values(account=account))


def act(r, action: str, **body: Any) -> str:
    return str(r.box.fathom.act(r.workspace, action, body)["recording_id"])


async def row(r, table: str, recording_id: str) -> dict[str, Any] | None:
    return next((one for one in await r.rows(table) if one["external_id"] == recording_id), None)


async def waiting(r) -> list[str]:
    return [one["external_id"] for one in await r.backlog()]


async def runs(r, times: int, **gap: float) -> None:
    for _ in range(times):
        r.box.world.clock.advance(timedelta(**gap))
        assert (await r.run())["failures"] == []


class TestParts:
    @ACCESS
    @pytest.mark.parametrize("part", ["ready_in_s", "summary_in_s", "items_in_s"])
    async def test_each_part_that_comes_days_later_is_waited_for(self, begun, workspace, part):
        r = await begun(workspace)
        made = act(r, "add", **{part: 3 * 86400})
        await r.run()
        assert made in await waiting(r)
        await runs(r, 9, hours=12)
        found = await row(r, "meetings", made)
        assert (bool(found["summary"]), bool(found["action_items"])) == (True, True)
        assert await row(r, "transcripts", made)
        assert made not in await waiting(r)

    @ACCESS
    async def test_what_the_window_brings_is_not_asked_for(self, begun, workspace):
        r = await begun(workspace)
        await runs(r, 2, hours=6)
        made = act(r, "add", items_in_s=600)
        await r.run()
        assert [one["reason"] for one in await r.backlog() if one["external_id"] == made] == ["action items not ready"]
        r.box.world.clock.advance(timedelta(minutes=11))
        assert (await r.run())["calls"] == 1
        assert made not in await waiting(r)

    async def test_what_does_not_come_is_given_up_after_the_time_that_is_set_and_not_before(self, begun):
        r = await begun(overrides={"content_wait": "3d"})
        made = act(r, "add", summary_in_s=90 * 86400)
        await r.run()
        await runs(r, 5, hours=14)
        assert made in await waiting(r)
        await runs(r, 3, hours=14)
        assert made not in await waiting(r)

    async def test_what_was_given_up_is_not_begun_anew_by_the_window(self, begun):
        r = await begun(overrides={"content_wait": "1h"})
        act(r, "add", summary_in_s=90 * 86400)
        await runs(r, 8, hours=1)
        calls = []
        for _ in range(3):
            r.box.world.clock.advance(timedelta(hours=1))
            calls.append((await r.run())["calls"])
        assert calls == [1, 1, 1]

    async def test_what_came_while_we_were_away_is_read_however_long_that_was(self, begun):
        r = await begun(overrides={"content_wait": "1d"})
        made = act(r, "add", ready_in_s=7200)
        await r.run()
        await runs(r, 1, days=9)
        assert await row(r, "transcripts", made)

    async def test_a_fault_gives_nothing_up(self, begun):
        r = await begun(overrides={"content_wait": "1d"})
        made = act(r, "add", ready_in_s=90 * 86400)
        await r.run()
        r.box.world.clock.advance(timedelta(days=2))
        r.box.world.faults.rules.append(Fault("500", vendor="fathom", method="meetings", skip=1))
        await r.run()
        assert made in await waiting(r)


class TestItems:
    async def test_a_new_and_a_completed_action_item_are_changes_and_their_order_is_none(self, begun):
        r = await begun()
        made = act(r, "add")
        await r.run()
        changes = []
        for edit in ({"item": "Send the offer"}, {"completed": True}, {"reorder": True}):
            act(r, "edit", recording_id=made, **edit)
            changes.append((await r.run())["changed"])
        assert changes == [1, 1, 0]


class TestSummary:
    async def test_an_edited_summary_reaches_a_key_on_the_sweep(self, begun):
        r = await begun()
        made = act(r, "add")
        await r.run()
        act(r, "edit", recording_id=made, summary="Second thoughts")
        await r.run()
        assert (await row(r, "meetings", made))["summary"] != "Second thoughts"
        await r.run(sweep=True)
        assert (await row(r, "meetings", made))["summary"] == "Second thoughts"

    async def test_an_edited_summary_reaches_an_app_within_a_day(self, begun):
        r = await begun("northwind")
        made = act(r, "add")
        await r.run()
        await runs(r, 8, days=1)
        act(r, "edit", recording_id=made, summary="Second thoughts")
        await runs(r, 1, days=1)
        assert (await row(r, "meetings", made))["summary"] == "Second thoughts"

    async def test_it_does_so_too_while_action_items_are_still_to_come(self, begun):
        r = await begun("northwind")
        made = act(r, "add", items_in_s=20 * 86400)
        await r.run()
        await runs(r, 2, days=1)
        act(r, "edit", recording_id=made, summary="Second thoughts")
        await runs(r, 2, days=1)
        assert (await row(r, "meetings", made))["summary"] == "Second thoughts"
        assert made in await waiting(r)

    async def test_an_app_asks_for_a_summary_once_a_day_for_as_long_as_a_sweep_reaches(self, begun):
        r = await begun("northwind")
        act(r, "add")
        await r.run()
        asked = []
        for _ in range(17):
            before = r.box.world.counts["fathom", "recordings/summary"]
            await runs(r, 2, hours=12)
            asked.append(r.box.world.counts["fathom", "recordings/summary"] - before)
        meetings = len(await r.rows("meetings"))
        assert asked[:2] == [meetings, meetings]
        assert asked[-1] == 0
        assert await r.rows("watches") == []

    async def test_a_summary_that_cannot_be_read_is_asked_for_again(self, begun):
        r = await begun("northwind")
        before = len(await r.rows("watches"))
        r.box.world.faults.rules.append(Fault("404", vendor="fathom", method="recordings/summary"))
        r.box.world.clock.advance(timedelta(days=1))
        await r.run()
        assert len(await r.rows("watches")) == before > 0


class TestWindows:
    @staticmethod
    def vendor(down: list[str]):
        """Answers nothing in any window; windows that begin before ``down[0]`` fail."""

        def answer(request: web.Request) -> object:
            if down and request.query["created_after"] > down[0]:
                return web.Response(status=500)
            return {"items": []}

        return answer

    async def away(self, reader, scripted, days: int, down: list[str]):
        box = await scripted(self.vendor(down))
        r = await reader("fathom", box=box, base_url=box.base, credentials=KEY)
        await r.run()
        async with r.parts.store.database.write() as session:
            old = (await r.rows("cursors"))[0]["cursor"]
            before = tables.cursors.update().values(
                cursor=(datetime.fromisoformat(old) - timedelta(days=days)).isoformat()
            )
            await session.execute(before)
        box.asked.clear()
        return r, datetime.fromisoformat(old)

    async def test_after_an_outage_all_since_the_cursor_is_listed_oldest_first(self, reader, scripted):
        r, now = await self.away(reader, scripted, 40, [])
        await r.run()
        begins = [query["created_after"] for query in r.box.asked]
        assert begins == sorted(begins)
        assert begins[0] < (now - timedelta(days=40)).isoformat()
        assert "created_before" not in r.box.asked[-1]

    async def test_what_is_cut_in_it_goes_on_where_it_was(self, reader, scripted):
        down: list[str] = []
        r, now = await self.away(reader, scripted, 40, down)
        down.append((now - timedelta(days=15)).isoformat())
        assert (await r.run())["failures"][0]["kind"] == "transient"
        r.box.asked.clear()
        down.clear()
        await r.run()
        assert r.box.asked[0]["created_after"] > (now - timedelta(days=20)).isoformat()

    async def test_a_sweep_that_is_cut_goes_on_where_it_was(self, begun):
        r = await begun()
        r.box.world.clock.advance(timedelta(hours=7))
        r.box.world.faults.rules.append(Fault("500", vendor="fathom", method="meetings", skip=5, times=1))
        calls, reached = [], []
        for _ in range(2):
            status = await r.parts.engine.cycle("fathom", trigger="schedule", turn=r.box.world.clock.now())
            calls.append(status["calls"])
            reached += [row["cursor"].split()[1] for row in await r.rows("cursors") if row["stream"] == "sweep"]
            r.box.world.clock.advance(timedelta(hours=1))
        left = r.box.world.clock.now() - timedelta(hours=1) - datetime.fromisoformat(reached[0])
        assert calls[1] == 1 + ceil(left / timedelta(days=2)) < 1 + 7


class TestDeletions:
    @ACCESS
    @pytest.mark.parametrize("sweep", [False, True], ids=["in the window", "on the sweep"])
    async def test_the_users_own_recording_that_is_gone_is_deleted_and_its_content_kept(self, begun, workspace, sweep):
        r = await begun(workspace)
        made = act(r, "add")
        await r.run()
        if sweep:
            await runs(r, 8, days=1)
        act(r, "delete", recording_id=made)
        await r.run(sweep=sweep)
        meeting, transcript = await row(r, "meetings", made), await row(r, "transcripts", made)
        assert None not in {meeting["deleted_at"], transcript["deleted_at"]}
        assert "" not in {meeting["summary"], transcript["text"]}

    @ACCESS
    async def test_it_comes_back_whole_when_it_is_listed_again(self, begun, workspace):
        r = await begun(workspace)
        made = act(r, "add")
        await r.run()
        [recorded] = [one for one in r.box.fathom._accounts[workspace].meetings if str(one.key[1]) == made]
        for recorded.deleted in (True, False):
            await r.run()
        assert [(await row(r, kind, made))["deleted_at"] for kind in ("meetings", "transcripts")] == [None, None]

    @ACCESS
    async def test_anothers_meeting_that_is_no_longer_shown_is_kept(self, begun, workspace):
        r = await begun(workspace)
        made = [act(r, "add", user=1), act(r, "add", user=1)]
        await r.run()
        act(r, "unshare", recording_id=made[0])
        act(r, "delete", recording_id=made[1])
        status = await r.run(sweep=True)
        assert (status["deleted"], status["failures"]) == (0, [])
        assert not set(made) & set(await waiting(r))

    async def test_nothing_is_inferred_where_the_connection_does_not_say_whose_it_is(self, begun):
        r = await begun()
        made = act(r, "add")
        await r.run()
        await of(r, "")
        act(r, "delete", recording_id=made)
        assert (await r.run(sweep=True))["deleted"] == 0

    async def test_nothing_is_inferred_from_a_window_that_was_not_read_to_its_end(self, begun, sandbox):
        r = await begun()
        made = act(r, "add")
        await r.run()
        act(r, "delete", recording_id=made)
        r.box.world.options = Options(workspaces=2, limits=False, page_size=1)
        r.box.world.faults.rules.append(Fault("500", vendor="fathom", method="meetings", skip=2))
        assert (await r.run())["deleted"] == 0

    @staticmethod
    async def of_one(reader, scripted, *, listed=(), spanned=(), elsewhere=(), teams=None, transcript=404):
        """A vendor that showed the meetings 1 and 2 of "me@x" at first, and then only these.

        ``spanned``: in a span with an end; ``elsewhere``: without dates.
        """
        first = [True]

        def meeting(number: int) -> dict[str, Any]:
            at = (now - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
            parts = {
                "transcript": [{"text": "hi"}],
                "default_summary": {"markdown_formatted": "ok"},
                "action_items": [],
            }
            times = {"created_at": at, "recording_start_time": at}
            return {"recording_id": number, "recorded_by": {"email": "Me@x"}, **times, **parts}

        def answer(request: web.Request) -> object:
            if not request.path.endswith("meetings"):
                return web.Response(status=transcript) if transcript != 200 else {"transcript": [{"text": "hi"}]}
            numbers = spanned if "created_before" in request.query else listed
            numbers = numbers if "created_after" in request.query else elsewhere
            numbers = (1, 2) if first[0] else numbers
            return {"items": [meeting(number) for number in numbers]}

        box = await scripted(answer)
        settings = {"teams": teams} if teams else {}
        r = await reader("fathom", box=box, base_url=box.base, credentials=KEY, settings=settings)
        now = r.parts.engine._now()
        await of(r, "me@x")
        await r.run()
        assert len(await r.rows("transcripts")) == 2
        first[0] = False
        return r

    async def deleted(self, r, **how: Any) -> list[str]:
        assert (await r.run(**how))["failures"] == []
        return [one["external_id"] for one in await r.rows("meetings") if one["deleted_at"]]

    async def test_what_recordings_does_not_know_is_deleted(self, reader, scripted):
        assert await self.deleted(await self.of_one(reader, scripted, listed=(2,))) == ["1"]

    async def test_an_empty_window_is_believed_only_where_other_meetings_are_seen(self, reader, scripted):
        r = await self.of_one(reader, scripted, listed=())
        assert await self.deleted(r) == []

    async def test_an_empty_window_beside_a_meeting_elsewhere_is_believed(self, reader, scripted):
        r = await self.of_one(reader, scripted, listed=(), elsewhere=(3,))
        assert await self.deleted(r) == ["1", "2"]

    @pytest.mark.parametrize("status", [200, 403, 500])
    async def test_what_recordings_still_answers_or_refuses_is_kept(self, reader, scripted, status):
        r = await self.of_one(reader, scripted, listed=(2,), transcript=status)
        assert await self.deleted(r) == []

    async def test_what_left_the_teams_of_the_setting_is_kept(self, reader, scripted):
        r = await self.of_one(reader, scripted, listed=(2,), spanned=(1, 2), teams=["Sales"])
        assert await self.deleted(r, sweep=True) == []


async def test_a_meeting_that_is_purged_while_its_parts_are_read_waits_no_longer():
    now = datetime(2026, 9, 1, tzinfo=UTC)

    class Purged:
        """Stored when the run looks what waits, and then no more."""

        async def stored(self, kind, ids, *members):
            return {one: (None,) * len(members) for one in ids} if kind is Meeting and members != ("*",) else {}

    day = timedelta(days=1)
    since = Since(
        now=now, lookback=day, cycle_lookback=day, sweep_lookback=day, held=Purged(), backlog=[Waiting("1", "", 0, now)]
    )  # fmt: skip
    api = SimpleNamespace(key="k", max_new=50, content_wait=day)
    assert [page.resolved async for page in fathom_details.details(api, since)] == [["1"]]
