"""The Fathom source: older history on request, what that takes, and the comparison with the vendor."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import delete, update

from syncd import tables
from syncd.audit import Audit, Finding
from syncd.backfill import Backfill, Part
from syncd.live import Errand
from syncd.records import Meeting, Transcript
from syncd.sandbox.faults import Fault
from syncd.sandbox.world import Options
from syncd.source import Estimate
from tests.sources.test_fathom import truth
from tests.sources.test_fathom_late import ACCESS, act, of

HOUR = timedelta(hours=1)


@pytest_asyncio.fixture
async def begun(reader, sandbox):
    """``await begun("acme", days=60)``: a connection with so long a past that has had its first run."""

    async def begin(workspace: str = "acme", *, days: int = 10, per_day: int = 1, **given: Any):
        options = Options(workspaces=2, limits=False, days=days, meetings_per_day=per_day)
        r = await reader("fathom", box=await sandbox(options), workspace=workspace, one_clock=True, **given)
        await of(r, r.box.world.companies[workspace].staff[0].email)
        r.workspace = workspace
        assert (await r.run())["failures"] == []
        await behind_its_back(r, update(tables.connections).values(next_sync_at=r.box.world.clock.now() + HOUR))
        return r

    return begin


async def behind_its_back(r, statement: Any) -> None:
    async with r.parts.store.database.write() as session:
        await session.execute(statement)


async def live(r) -> dict[str, list[str]]:
    kinds = ("meetings", "transcripts")
    return {kind: [row["external_id"] for row in await r.rows(kind) if not row["deleted_at"]] for kind in kinds}


class TestBackfill:
    async def read(self, r, days: int) -> Part:
        filling = Backfill(
            await r.parts.store.connections.all(),
            back_to=r.box.world.clock.now() - timedelta(days=days),
            engine=r.parts.engine,
            store=r.parts.store,
            vault=r.parts.vault,
            now=r.box.world.clock.now,
        )
        await filling.run()
        return filling.parts[0]

    @ACCESS
    async def test_it_reads_all_since_the_date_with_its_parts(self, begun, workspace):
        r = await begun(workspace, days=40)
        assert (await self.read(r, 30)).status == "finished"
        assert await live(r) == truth(r, workspace, days=30)
        bare = [row["external_id"] for row in await r.rows("meetings") if not row["summary"]]
        assert len(set(bare) & set(truth(r, workspace)["transcripts"])) == 1  # one of the last hours has none yet

    async def test_it_tells_how_far_back_it_is_and_leaves_no_cursor(self, begun):
        r = await begun()
        back_to = r.box.world.clock.now() - timedelta(days=30)
        assert (await self.read(r, 30)).reached == back_to
        assert {row["stream"] for row in await r.rows("cursors")} == {"meetings"}

    @pytest.mark.parametrize(("days", "windows"), [(60, 9 - 5), (61, 9)], ids=["same date", "another date"])
    async def test_what_was_cut_goes_on_where_it_was_for_the_same_date(self, begun, days, windows):
        r = await begun(days=1)  # nothing older: a call is a window of seven days
        r.box.world.faults.rules.append(Fault("500", vendor="fathom", method="meetings", skip=5, times=1))
        assert (await self.read(r, 60)).status == "failed"
        before = r.box.world.counts["fathom", "meetings"]
        assert (await self.read(r, days)).status == "finished"
        assert r.box.world.counts["fathom", "meetings"] - before == windows

    async def test_what_is_cut_in_the_details_does_not_list_all_again(self, begun):
        r = await begun("northwind", days=20)
        r.box.world.faults.rules.append(Fault("401", vendor="fathom", method="recordings/summary", skip=3, times=2))
        assert (await self.read(r, 60)).status == "failed"
        await behind_its_back(r, update(tables.connections).values(status="ok"))
        before = r.box.world.counts["fathom", "meetings"]
        assert (await self.read(r, 60)).status == "finished"
        assert r.box.world.counts["fathom", "meetings"] - before <= 2  # for action items
        assert await live(r) == truth(r, "northwind", days=60)


class TestEstimate:
    async def made(self, r, days: int) -> tuple[Estimate, int]:
        """It, and how many calls it took."""
        [connection] = await r.parts.store.connections.all()
        engine, now = r.parts.engine, r.box.world.clock.now()
        plan, before = engine.plans["fathom"], r.box.world.counts["fathom", "meetings"]
        credentials = r.parts.vault.open(connection.id, connection.sealed)
        errand = Errand(streams=plan.source.backfill, back_to=now - timedelta(days=days))
        async with plan.source.connect(engine.runs.link(plan, connection, credentials)) as api:
            found = await plan.source.estimate(api, engine.runs.since(plan, connection, now, errand))
        return found, r.box.world.counts["fathom", "meetings"] - before

    @ACCESS
    async def test_it_takes_few_calls_and_comes_near(self, begun, workspace):
        r = await begun(workspace, days=150, per_day=6)
        found, calls = await self.made(r, 150)
        count = len(truth(r, workspace, days=150)["meetings"])
        assert calls <= 5
        assert found.items.startswith("about ")
        told = int(found.items.split()[1].replace(",", ""))
        assert 0.6 * count < told < 1.6 * count
        assert found.draws["heavy"] == 2 * told if workspace == "northwind" else 150 < found.draws["heavy"] < told
        assert found.calls == found.draws["calls"] > found.draws["heavy"]

    async def test_where_there_is_nothing_it_says_so(self, begun):
        found, _ = await self.made(await begun(settings={"teams": ["Nobody"]}), 30)
        assert (found.items, found.draws["heavy"], found.calls) == ("about 0 meetings", 0, 5)


class TestAudit:
    async def found(self, r, **how: Any) -> Finding:
        audit = Audit(
            await r.parts.store.connections.all(),
            engine=r.parts.engine,
            store=r.parts.store,
            vault=r.parts.vault,
            now=r.box.world.clock.now,
            **how,
        )
        await audit.run()
        assert audit.findings[0].error is None
        return audit.findings[0]

    async def swept(self, begun, workspace: str):
        r = await begun(workspace)
        for _ in range(2):
            await r.run(sweep=True)
        return r

    @staticmethod
    def of(found: Finding) -> dict[str, set[tuple[str, str]]]:
        names = ("missing", "stale", "extra")
        return {name: ids for name in names if (ids := set(getattr(found, name).named))}

    @ACCESS
    async def test_what_was_read_and_swept_is_clean_and_all_of_it_is_compared(self, begun, workspace):
        r = await self.swept(begun, workspace)
        before = {kind: await r.rows(kind) for kind in ("meetings", "transcripts", "backlog", "cursors", "watches")}
        found = await self.found(r)
        assert self.of(found) == {}
        assert found.checked >= sum(map(len, (await live(r)).values()))
        assert {kind: await r.rows(kind) for kind in before} == before

    @ACCESS
    @pytest.mark.parametrize("kind", [Meeting, Transcript])
    async def test_what_the_vendor_has_and_is_not_stored_is_missing(self, begun, workspace, kind):
        r = await self.swept(begun, workspace)
        table = {Meeting: tables.meetings, Transcript: tables.transcripts}[kind]
        one = (await live(r))["transcripts"][-1]
        await behind_its_back(r, delete(table).where(table.c.external_id == one))
        assert self.of(await self.found(r, sample=0)) == {"missing": {(table.name, one)}}

    @ACCESS
    async def test_an_edited_title_and_an_edited_summary_are_stale(self, begun, workspace):
        r = await self.swept(begun, workspace)
        one, other = (await live(r))["transcripts"][-2:]
        act(r, "edit", recording_id=one, title="Another")
        act(r, "edit", recording_id=other, summary="Another")
        assert self.of(await self.found(r)) == {"stale": {("meetings", one), ("meetings", other)}}

    async def test_an_app_is_asked_for_no_more_parts_than_the_sample(self, begun):
        r = await self.swept(begun, "northwind")
        silent = len((await live(r))["meetings"]) - len((await live(r))["transcripts"])
        before = r.box.world.counts["fathom", "recordings/summary"]
        await self.found(r, sample=3)
        assert r.box.world.counts["fathom", "recordings/summary"] - before == silent + 3

    @ACCESS
    async def test_an_own_deleted_recording_is_extra_and_anothers_that_vanished_is_told(self, begun, workspace):
        r = await begun(workspace)
        own, others = act(r, "add"), act(r, "add", user=1)
        for _ in range(2):
            await r.run(sweep=True)
        act(r, "delete", recording_id=own)
        act(r, "delete", recording_id=others)
        found = await self.found(r)
        assert self.of(found) == {"extra": {("meetings", own), ("transcripts", own)}}
        assert "stored meetings that are no longer shown to these credentials, kept: 1" in found.facts

    async def test_what_was_made_after_the_last_run_waits_and_is_not_missing(self, begun):
        r = await self.swept(begun, "acme")
        r.box.world.clock.advance(timedelta(minutes=5))
        act(r, "add")
        found = await self.found(r)
        assert (self.of(found), found.waiting) == ({}, 1)

    async def test_what_no_sweep_has_read_yet_is_told_and_not_missing(self, begun):
        found = await self.found(await begun())
        assert self.of(found) == {}
        assert any("no sweep has read" in fact for fact in found.facts)
